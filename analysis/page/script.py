"""The drawing library as one script: Vega, Vega-Lite and Vega-Embed with Vega's interpreter, as vl-convert brings them."""

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import vl_convert


def bundle(cache_dir: Path | None = None) -> str:
    """The script (900 KB). Putting it together takes seconds, so it is kept in `cache_dir`, by its version.

    A cache that cannot be read or written is done without.
    """
    if cache_dir is None:
        return _made()
    kept = cache_dir / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, ValueError):
        text = kept.read_text(encoding="utf-8")
        if text.endswith(_END):
            return text
    text = _made()
    with suppress(OSError):
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, kept)
    return text


_END = "\n// whole\n"


def _made() -> str:
    # The module's own names stay inside the function; what it gives to `window` is for the page's script.
    made: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # the default, which is made once a process
    return f"(() => {{\n{made}\n}})();{_END}"
