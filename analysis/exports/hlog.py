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
from analysis.cells import Cells
from analysis.exports.files import whole
from analysis.histogram import PLACES, Histogram, LogLine, highest_equivalent, write_log
from analysis.opened import Opened, of_window, opened
from analysis.rows import ABSENT, Integers, Rows, pick
from analysis.window import Window

NS_PER_S: Final = 1_000_000_000

INTERVAL_NS: Final = NS_PER_S


class _Known(NamedTuple):
    """Values of a metric, and the moments at which they were known."""

    values_ns: Integers
    at_ns: Integers


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    run = opened(run_dir)
    cells: dict[tuple[int, str], Cells] = {}
    for piece in run.pieces(also=()):
        for name, known in _known(run.windows[piece.stage], piece.rows).items():
            if len(known.values_ns):
                seconds = (known.at_ns - run.origin_ns) // INTERVAL_NS
                cells.setdefault((piece.stage, name), Cells()).add(seconds, known.values_ns)
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


def _lines(run: Opened, cells: dict[tuple[int, str], Cells]) -> Iterator[LogLine]:
    """In the order of time, as the tools want them."""
    settled = {key: cell.settled() for key, cell in sorted(cells.items())}
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
