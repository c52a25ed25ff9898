"""A trace in its course: from its own clock to the stage's, cut, thinned, stretched; its rows in the order of their time.

Times count from the first row, or from --from. Rows that are a little out of order, as logs of several machines are, are put
into it; memory is that of those rows, and of what is known of the sessions that came last.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from loadgen.distribution import SAMPLE, uniform
from loadgen.workload import formats
from loadgen.workload.containers import BadLine, OnBad, raise_it
from loadgen.workload.formats.row import Reading, Row
from loadgen.workload.formats.values import NS_PER_S

REORDERED: Final = 4096
"""Rows that are looked at ahead to sort them."""

KNOWN_SESSIONS: Final = 100_000
"""A session that has been silent for so many others is a new one when it comes again."""


@dataclass(frozen=True, slots=True)
class Course:
    """What of a trace is played, and how fast; times are the trace's own, since its first row."""

    from_ns: int = 0
    to_ns: int | None = None
    time_scale: float = 1.0
    """1: as recorded; 0.5: in half the time."""
    sample_share: float = 1.0
    """Of the sessions (of rows without one, the rows), whole ones, drawn by the seed."""


class Played(NamedTuple):
    """A row, when it is due since the stage's start, and where it stands in its session."""

    row: Row
    due_ns: int
    session: int | None
    turn: int


def play(how: Reading, course: Course, seed: int, on_bad: OnBad = raise_it) -> Iterator[Played]:
    """The rows of a trace that are played, by due time. BadLine where a row is out of order by more than can be mended."""
    first_ns: int | None = None
    roots: OrderedDict[str, tuple[str, int]] = OrderedDict()  # of each row or session: its first, and the turns so far
    for row in _sorted(how, on_bad):
        assert row.at_ns is not None
        first_ns = row.at_ns if first_ns is None else first_ns
        at_ns = row.at_ns - first_ns
        if course.to_ns is not None and at_ns >= course.to_ns:
            return
        root, turn = _place(roots, row)
        if course.sample_share < 1:
            drawn_by = row.line if root is None else _number(root)
            if uniform(seed, SAMPLE, drawn_by) >= course.sample_share:
                continue
        if at_ns < course.from_ns:
            continue
        due_ns = round((at_ns - course.from_ns) * course.time_scale)
        yield Played(row, due_ns, None if root is None else _number(root), turn)


def length_ns(how: Reading, course: Course) -> int:
    """How long the trace lasts as it is played: to the end of --to, else just behind its last row.

    The end of the file is looked at where that is enough; a packed file, or a run, has to be read through.
    """
    if course.to_ns is not None:
        last_ns = course.to_ns - 1
    else:
        first = next(formats.rows(how, _pass_over), None)
        if first is None or first.at_ns is None:
            return 0
        at_ns = formats.last_time_ns(how)
        if at_ns is None:
            at_ns = max(row.at_ns or 0 for row in formats.rows(how, _pass_over))
        last_ns = at_ns - first.at_ns
    return max(round((last_ns - course.from_ns) * course.time_scale) + 1, 0)


def first_rate_per_s(how: Reading, course: Course, seed: int, rows: int = 2000) -> float:
    """Arrivals a second over the first rows that are played; 0 where there are not two of them."""
    due_ns = [played.due_ns for played in islice(play(how, course, seed, _pass_over), rows)]
    span_ns = due_ns[-1] - due_ns[0] if due_ns else 0
    return (len(due_ns) - 1) / (span_ns / NS_PER_S) if span_ns else 0.0


def _pass_over(_: BadLine) -> None:
    """A bad line is told when its turn comes."""


def _place(roots: "OrderedDict[str, tuple[str, int]]", row: Row) -> tuple[str | None, int]:
    """(the session's first id, the turn) of a row; (None, 0) for one of no session."""
    if row.session is None:
        return None, 0
    before = row.parent if row.parent is not None else row.session
    known = roots.pop(before, None)
    root, turn = (row.session, 0) if known is None else (known[0], known[1] + 1)
    if row.parent is not None and known is not None:
        roots[before] = known  # another row may go on from it, too
    roots[row.session] = (root, turn)
    if len(roots) > KNOWN_SESSIONS:
        roots.popitem(last=False)
    return root, min(turn, 0xFFFF)


def _sorted(how: Reading, on_bad: OnBad) -> Iterator[Row]:
    heap: list[tuple[int, int, Row]] = []
    last_ns: int | None = None
    for number, row in enumerate(formats.rows(how, on_bad)):
        assert row.at_ns is not None
        if last_ns is not None and row.at_ns < last_ns:
            on_bad(
                BadLine(
                    how.path, row.line, f"it is earlier than one {REORDERED} lines before it; sort the file by time"
                )
            )
            continue
        heapq.heappush(heap, (row.at_ns, number, row))
        if len(heap) > REORDERED:
            last_ns, _, row = heapq.heappop(heap)
            yield row
    while heap:
        yield heapq.heappop(heap)[2]


def _number(session: str) -> int:
    """63 bits that stand for a session; the same in every process."""
    return int.from_bytes(blake2b(session.encode("utf-8", "replace"), digest_size=8).digest()) >> 1
