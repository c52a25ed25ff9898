"""Which requests and tokens count.

A stage's window starts when its warm-up ends (`measure_ns`, the same in all workers). It ends

* when sending ended (`stop_ns`, the earliest over the workers) if the stage was bounded by a duration, or was stopped;
* else, in a stage bounded by a number of requests, at the earliest `idle_ns`: the first moment at which some worker had
  nothing left to send, so that the planned load was no longer fully there;
* with fewer requests than slots that moment comes at once, for the planned load was never there: then the window lasts
  until the last request has ended;
* never after the last sign of life of a worker whose capture is cut within the stage: beyond it, rows are missing;
* if no worker left any such mark, at the last thing known: the latest end of the stage, or the last sample.

Requests go by the moment they were sent: latencies are those of the requests sent inside the window that completed, even if
they ended in the drain after it, because leaving those out would leave out the long ones. Tokens, completions and
concurrency go by their own time: what happened inside the window counts, whatever request of the stage it belongs to.
The window is half-open: start <= t < stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.captures import Capture


@dataclass(frozen=True, slots=True)
class Mark:
    """What one worker says of one stage; `cut_ns` is its last sign of life if its capture ends within the stage."""

    worker: int
    start_ns: int
    measure_ns: int
    stop_ns: int | None
    idle_ns: int | None
    done_ns: int | None
    cut_ns: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """start_ns <= t < stop_ns counts; the stage itself lasts from begin_ns to end_ns."""

    start_ns: int
    stop_ns: int
    begin_ns: int
    end_ns: int
    rule: str

    @property
    def length_ns(self) -> int:
        return self.stop_ns - self.start_ns


REQUESTS_RULE = (
    "latencies are of the requests sent inside the window that completed, even after it; "
    "tokens, completions and concurrency are counted by their own time"
)


def stage_marks(captures: Sequence[Capture], stage: int) -> list[Mark]:
    """The last word of each worker on a stage; workers that never began it are left out."""
    marks = []
    for capture in captures:
        told: dict[str, Any] | None = None
        for watch in capture.watches:
            for entry in watch.get("stages", ()):
                if entry["stage"] == stage:
                    told = entry
        if told is None:
            continue
        cut = not capture.closed and told.get("done_ns") is None
        marks.append(
            Mark(
                capture.worker,
                told["start_ns"],
                told["measure_ns"],
                told.get("stop_ns"),
                told.get("idle_ns"),
                told.get("done_ns"),
                (capture.known_until_ns or told["start_ns"]) if cut else None,
            )
        )
    return marks


def stage_window(plan: dict[str, Any], marks: Sequence[Mark]) -> Window | None:
    """The window of a stage; `plan` is its entry in run.json. None if no worker began it.

    An empty window (stop_ns == start_ns) is possible: a stage that ended within its warm-up has nothing to count.
    """
    if not marks:
        return None
    begin_ns = min(mark.start_ns for mark in marks)
    start_ns = max(mark.measure_ns for mark in marks)
    last_known_ns = max(m.done_ns or m.cut_ns or m.stop_ns or m.idle_ns or m.measure_ns for m in marks)
    stops = [mark.stop_ns for mark in marks if mark.stop_ns is not None]
    idles = [mark.idle_ns for mark in marks if mark.idle_ns is not None]
    cuts = [mark.cut_ns for mark in marks if mark.cut_ns is not None]

    ends = []
    if stops:
        ends.append((min(stops), "the end of sending"))
    if idles and (plan.get("requests") is not None or not stops):
        ends.append((min(idles), "the moment at which the first worker had nothing left to send"))
    stop_ns, why = min(ends, default=(last_known_ns, "the last thing known, for no worker marked an end"))
    if idles and stop_ns == min(idles) and _fewer_requests_than_slots(plan):
        stop_ns, why = last_known_ns, "the end of the last request, for there were fewer requests than slots"
    if cuts and min(cuts) < stop_ns:
        stop_ns, why = min(cuts), "the last sign of life of a worker whose capture is cut"
    rule = f"from the end of the warm-up to {why}: {REQUESTS_RULE}"
    return Window(start_ns, max(start_ns, stop_ns), begin_ns, max(last_known_ns, stop_ns, start_ns), rule)


def _fewer_requests_than_slots(plan: dict[str, Any]) -> bool:
    load, requests = plan.get("load") or {}, plan.get("requests")
    return requests is not None and load.get("mode") == "concurrency" and requests < load["value"]
