"""intervals.hlog: HdrHistograms by the second, a tag a stage and metric, as HdrHistogram's Java and JS tools plot them.

histograms.hlog of the run has one histogram a stage; this one has one a second, by the moment at which a value was known:
TTFT with the first token, ITL with the token that ended the gap, TPOT and E2E with the last. Values are ns: those tools show
a value divided by 1,000,000 unless told otherwise, which is then ms, and so does the log's own column of maxima.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from analysis import metrics
from analysis.captures import ABSENT, Integers, Rows, pick
from analysis.exports.rows import Opened, of_window, opened, whole
from analysis.histogram import CEILING_NS, PLACES, Histogram, LogLine, highest_equivalent, places, write_log
from analysis.window import Window

NS_PER_S: Final = 1_000_000_000

INTERVAL_NS: Final = NS_PER_S

MOST_CELLS: Final = 1 << 20
"""(second, place) pairs that gather before they are added up."""


class _Known(NamedTuple):
    """Values of a metric, and the moments at which they were known."""

    values_ns: Integers
    at_ns: Integers


class _Cells:
    """Counts by second and place, sparse: a second of a metric has some hundred places, not all of them."""

    def __init__(self) -> None:
        self._keys: list[Integers] = []
        self._counts: list[Integers] = []
        self._gathered = 0
        self.most_ns: dict[int, int] = {}

    def add(self, seconds: Integers, values_ns: Integers) -> None:
        keys = seconds * PLACES + places(np.clip(values_ns, 0, CEILING_NS - 1))
        found, counts = np.unique(keys, return_counts=True)
        self._put(found, counts)
        in_order = np.argsort(seconds, kind="stable")
        seen, first = np.unique(seconds[in_order], return_index=True)
        tops = np.maximum.reduceat(values_ns[in_order], first)
        for second, top in zip(seen.tolist(), tops.tolist(), strict=True):
            self.most_ns[second] = max(self.most_ns.get(second, 0), top)

    def _put(self, keys: Integers, counts: Integers) -> None:
        self._keys.append(keys)
        self._counts.append(counts)
        self._gathered += len(keys)
        if self._gathered > MOST_CELLS:
            self.settle()
            self._gathered = len(self._keys[0]) // 2  # it may have grown for good: look again when it has doubled

    def settle(self) -> tuple[Integers, Integers]:
        """All pairs in order, and their counts."""
        if not self._keys:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        keys, at = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = np.bincount(at, np.concatenate(self._counts)).astype(np.int64)
        self._keys, self._counts = [keys], [counts]
        return keys, counts


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    run = opened(run_dir)
    cells: dict[tuple[int, str], _Cells] = {}
    for piece in run.pieces(also=()):
        for name, known in _known(run.windows[piece.stage], piece.rows).items():
            if len(known.values_ns):
                seconds = (known.at_ns - run.origin_ns) // INTERVAL_NS
                cells.setdefault((piece.stage, name), _Cells()).add(seconds, known.values_ns)
    path = out_dir / "intervals.hlog"
    start_s = (run.origin_ns + run.realtime_offset_ns) / NS_PER_S
    note = f"loadgen {run.run.facts['loadgen']}, run {run.run.facts['run_id']}, values in ns, an interval a second"
    with whole(path) as part, part.open("w", encoding="utf-8") as out:
        write_log(out, _lines(run, cells), start_s, note.replace("\n", " "))
    return [path]


def _known(window: Window, rows: Rows) -> dict[str, _Known]:
    """The values that the summary's histograms hold, too: of requests of the window that completed."""
    measured = of_window(window, rows) & rows.completed
    if not measured.any():
        return {}
    rows = pick(rows, measured)
    first_ns, last_ns = metrics.first_output_ns(rows), metrics.last_output_ns(rows)
    found = {"itl": _Known(metrics.gap_ns(rows), rows.event_ns[1:][metrics.gap_ends(rows)])}
    for name, at_ns in (
        ("ttft", first_ns),
        ("ttft_intended", first_ns),
        ("tpot", last_ns),
        ("e2e", last_ns),
        ("e2e_intended", last_ns),
    ):
        values_ns = metrics.A_REQUEST[name](rows)
        present = values_ns != ABSENT
        found[name] = _Known(values_ns[present], at_ns[present])
    return found


def _lines(run: Opened, cells: dict[tuple[int, str], _Cells]) -> Iterator[LogLine]:
    """In the order of time, as the tools want them."""
    settled = {key: cell.settle() for key, cell in sorted(cells.items())}
    seconds = {second for cell in cells.values() for second in cell.most_ns}
    for second in sorted(seconds):
        for (stage, name), (keys, counts) in settled.items():
            first, after = np.searchsorted(keys, [second * PLACES, (second + 1) * PLACES])
            if first < after:
                histogram = _histogram(keys[first:after] - second * PLACES, counts[first:after])
                histogram.max_ns = cells[stage, name].most_ns[second]
                yield LogLine(f"{stage}.{name}", float(second), INTERVAL_NS / NS_PER_S, histogram)


def _histogram(at: Integers, counts: Integers) -> Histogram:
    made = Histogram(pieces=None)
    made.counts[at] = counts
    made.total = int(counts.sum())
    made.min_ns = int(highest_equivalent(at[:1])[0])
    return made
