"""Metrics as text: which samples a page of Prometheus or OpenMetrics text holds, as far as they are wanted.

A line is `name{label="value",...} number [timestamp] [# exemplar]`; lines that begin with # tell of types and are skipped,
for whoever wants a name knows what it is. Most of a page is nobody's wish: a line costs one look-up of its name. A page
comes from anywhere: a line that is no sample is counted and left out, and samples and labels have limits.
"""

import math
import re
from collections.abc import Container
from typing import Final, NamedTuple

MOST_SAMPLES: Final = 20_000
MOST_LINE_CHARS: Final = 8_192
MOST_LABELS: Final = 32

_LABEL: Final = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"[ \t]*(,?)')
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPED: Final = {"n": "\n", '"': '"', "\\": "\\"}

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One value; `labels` are in the order of their names."""

    name: str
    labels: Labels
    value: float


class Page(NamedTuple):
    """What was wanted of a page."""

    samples: list[Sample]
    bad_lines: int
    """Wanted ones that are no samples."""
    left_out: int
    """Samples beyond MOST_SAMPLES."""


def read_page(text: str, wanted: Container[str]) -> Page:
    """The samples with a wanted name and a finite value, in the order of the page."""
    samples: list[Sample] = []
    bad_lines = left_out = 0
    for line in text.split("\n"):
        end = _end_of_name(line)
        if line[:end] not in wanted:
            continue
        if len(samples) == MOST_SAMPLES:
            left_out += 1
            continue
        labels: Labels | None = ()
        if len(line) > MOST_LINE_CHARS:
            labels = None
        elif line[end : end + 1] == "{":
            labels, end = _labels(line, end + 1)
        fields = line[end:].split(None, 1)
        value = _number(fields[0]) if fields and labels is not None else None
        if value is None or labels is None:
            bad_lines += 1
        elif math.isfinite(value):
            samples.append(Sample(line[: _end_of_name(line)], labels, value))
    return Page(samples, bad_lines, left_out)


def _end_of_name(line: str) -> int:
    """Where the name ends: at the first brace or blank."""
    brace = line.find("{")
    head = line if brace < 0 else line[:brace]
    blank = min((at for at in (head.find(" "), head.find("\t")) if at >= 0), default=len(head))
    return min(blank, len(head))


def _labels(line: str, at: int) -> tuple[Labels | None, int]:
    """(labels, where the line goes on); None where they are none."""
    found: dict[str, str] = {}
    more = True
    while more and len(found) <= MOST_LABELS and (label := _LABEL.match(line, at)):
        found[label[1]] = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[0]), label[2])
        at, more = label.end(), bool(label[3])
    rest = line[at:].lstrip(" \t")
    if not rest.startswith("}") or len(found) > MOST_LABELS:
        return None, at
    return tuple(sorted(found.items())), len(line) - len(rest) + 1


def _number(word: str) -> float | None:
    try:
        return float(word) if "_" not in word else None
    except ValueError:
        return None
