"""A result as HTML for a notebook: one piece without scripts, in the colours of the page around it."""

import html as markup
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from analysis import notes, spelling
from analysis.targets import endpoint_words

Facts = Mapping[str, Any]

STYLE: Final = (
    "<style>.loadgen{font-size:.92em;line-height:1.45}.loadgen table{border-collapse:collapse;margin:.5em 0}"
    ".loadgen th,.loadgen td{padding:.2em .7em;text-align:right;border:0;white-space:nowrap;"
    "font-variant-numeric:tabular-nums}"
    ".loadgen thead th{border-bottom:1px solid currentColor;font-weight:600;vertical-align:bottom;white-space:normal}"
    ".loadgen .bar{text-align:left;min-width:7em}.loadgen .bar i{display:block;height:.7em;min-width:1px;"
    "background:currentColor;opacity:.55;border-radius:.15em}.loadgen .dim{opacity:.7}.loadgen ul{margin:.2em 0}"
    ".loadgen b.ok{color:#16834f}.loadgen b.bad{color:#c4600f}.loadgen td.bad{color:#d64550}</style>"
)
"""Its rules are of the class alone; colours have a contrast of 3 : 1 and more on white and on black."""


def html(summary: Facts, saturation: Facts | None, run_dir: Path) -> str:
    """The result: where it was measured, the answer of a search, a row a point, notes, the verdict with its reasons."""
    spec = summary["spec"] or {}
    head = endpoint_words(spec)
    over = ", interrupted" if summary["interrupted"] else ""
    parts = [
        STYLE,
        f"<div><b>loadgen {_text(summary['command'] or 'run')}</b> {_text(head)}{over}</div>",
        *(_answer(saturation) if saturation else ()),
        _table(summary["curve"]),
        *(_dim(note.plain) for note in notes.curve_notes(dict(summary))),
        *_verdict(summary["verdict"]),
        _dim(str(run_dir)),
    ]
    return f'<div class="loadgen">{"".join(parts)}</div>'


def _answer(saturation: Facts) -> Iterable[str]:
    first, *others = notes.answer_lines(dict(saturation))
    yield f"<div><b>{_text(first.plain)}</b></div>"
    yield from (_dim(line.plain.strip()) for line in others)


def _table(curve: list[Facts]) -> str:
    if not curve:
        return _dim("nothing was measured")
    due = "_intended" if all(point["load"]["mode"] == "rate" for point in curve) else ""
    columns: tuple[tuple[str, Callable[[Facts], str]], ...] = (
        ("req/s", lambda point: _of(point["requests_per_s"])),
        ("in tok/s", lambda point: _of(point["input_tokens_per_s"])),
        ("out tok/s", lambda point: _of(point["output_tokens_per_s"])),
        ("+-", lambda point: spelling.half_width(point["output_tokens_per_s"])),
        ("tok/s a user", lambda point: spelling.short(point["tokens_per_s_per_user"])),
        ("TTFT p50, ms", lambda point: _latency(point, f"ttft{due}", "p50")),
        ("TTFT p99, ms", lambda point: _latency(point, f"ttft{due}", "p99")),
        ("TPOT p50, ms", lambda point: _latency(point, "tpot", "p50")),
        ("E2E p50, ms", lambda point: _latency(point, f"e2e{due}", "p50")),
        ("E2E p99, ms", lambda point: _latency(point, f"e2e{due}", "p99")),
    )
    most = max((_number(point["output_tokens_per_s"]) for point in curve), default=0.0)
    lines = []
    for point in curve:
        share = _number(point["output_tokens_per_s"]) / most if most else 0.0
        failed = point["failed_share"]
        cells = [f"<th>{_text(spelling.load_words(point['load']))}</th>"]
        cells += [f"<td>{_text(words(point))}</td>" for _, words in columns]
        cells.append(f'<td class="bad">{failed:.1%}</td>' if failed else "<td>0</td>")
        cells.append(f'<td class="bar"><i style="width:{share:.1%}"></i></td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f"<th>{_text(title)}</th>" for title in ("load", *(title for title, _ in columns), "failed"))
    return (
        f'<table><thead><tr>{titles}<th class="bar">out tok/s</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )


def _verdict(verdict: Facts) -> Iterable[str]:
    if verdict["ok"]:
        yield '<div><b class="ok">valid</b></div>'
        return
    reasons = [
        f"<li>{_text(spelling.plain(reason['stage']) + ': ' if reason['stage'] is not None else '')}"
        f'{_text(reason["words"])} <span class="dim">try: {_text(reason["try"])}</span></li>'
        for reason in verdict["reasons"]
    ]
    yield f'<div><b class="bad">suspect</b></div><ul>{"".join(reasons)}</ul>'


def _dim(words: str) -> str:
    return f'<div class="dim">{_text(words)}</div>'


def _text(words: object) -> str:
    """Words from anywhere, made harmless."""
    return markup.escape(spelling.plain(words))


def _number(one: Facts | None) -> float:
    return float((one or {}).get("value") or 0.0)


def _of(one: Facts | None) -> str:
    return spelling.short((one or {}).get("value"))


def _latency(point: Facts, name: str, percentile: str) -> str:
    return _of((point[f"{name}_ms"] or {}).get(percentile))
