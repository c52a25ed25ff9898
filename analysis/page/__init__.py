"""report.html: one file that shows one run or several, opens without network, and runs no script but its own.

`html` puts together what the other modules make: words and numbers (`headline`, `listings`), the charts with their data
(`charts`), the drawing script (`script`), the page's own template, style and script beside them. The result depends on
its arguments alone.

What a server or a user said is data here: the template escapes everything that it is given, the charts' data stand in a
block that is no script, and a Content-Security-Policy names the two scripts by their hashes and allows nothing else:
nothing is loaded, nothing evaluated, nothing sent.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.page.charts import charts
from analysis.page.headline import headline
from analysis.page.listings import run_facts
from analysis.page.shown import Glossary, Shown
from analysis.spelling import plain

__all__ = ["Glossary", "Shown", "html"]


def html(runs: Sequence[Shown], script: str, glossary: Glossary | None = None) -> str:
    """The page. `script` is the drawing library (script.bundle); labels are different from each other."""
    glossary = glossary or Glossary()
    style, own_script = _part("page.css"), _part("page.js")
    script = script.replace("\r", "").replace("</script", "<\\/script")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    several = len(runs) > 1
    facts = [
        run_facts(run.analysis.summary, run.analysis.details, glossary.errors)
        | {"label": plain(run.label), "headline": headline(run.analysis.summary, run.saturation)}
        for run in runs
    ]
    drawn = charts(runs)
    return environment.from_string(_part("page.html")).render(
        runs=facts,
        several=several,
        chosen_runs=[(str(place), run["label"]) for place, run in enumerate(facts)],
        title=_title(facts),
        charts=drawn.shown,
        policy=_policy(style, [script, own_script]),
        style=Markup(style),
        script=Markup(script),
        own_script=Markup(own_script),
        data=Markup(as_data(drawn.data)),
    )


def as_data(value: object) -> str:
    """JSON that cannot end the block it stands in, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: what is no ASCII is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _title(facts: Sequence[Mapping[str, Any]]) -> str:
    if len(facts) > 1:
        return f"{len(facts)} runs: {', '.join(run['label'] for run in facts)}"[:200]
    return f"{facts[0]['endpoint']['model']}: load test"


def _part(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8").replace("\r", "")


def _policy(style: str, scripts: Sequence[str]) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(source(text) for text in scripts)}",
            f"style-src {source(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
