"""Which requests and tokens count.

A stage's window starts when its warm-up ends (`measure_ns`, the latest over the workers; with a warm-up of so many
requests they differ). If it has not ended in some worker, nothing was measured, and the window is empty. It ends

* when the load ended (`stop_ns`, the earliest over the workers) if the stage was bounded by a duration, or was stopped; an
  open-loop stage always has such an end: the moment up to which arrivals were due, though those that wait are sent later;
* else, in a closed-loop stage bounded by a number of requests or sessions, at the earliest `idle_ns`: the first moment at
  which some worker had nothing left to send, so that the planned load was no longer fully there;
* with fewer requests than slots that moment comes at once, for the planned load was never there: then the window lasts
  until the last request has ended;
* never after the last sign of life of a worker whose capture is cut within the stage: beyond it, rows are missing;
* if no worker left any such mark, at the last thing known: the latest end of the stage, or the last sample.

Requests go by the moment their user began to wait: where there is a schedule that is the intended time, in a closed loop
the send. Latencies are those of the requests of the window that completed, even if they were sent or ended in the drain
after it, because leaving those out would leave out the long ones; and going by the send would move what a stalled server
held up out of the window, which is coordinated omission by another door. So

    offered = sent + dropped      (open loop: all that fell due inside the window; dropped ones were never sent)
    sent = completed + failed + cancelled

A cancelled request (its user left) is in no latency, and is no failure. Tokens, completions and concurrency go by their
own time: what happened inside the window counts, whatever request of the stage it belongs to, so that the tokens of a
request that failed or was cancelled count where they were delivered. The window is half-open: start <= t < stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.captures import Capture, Run


@dataclass(frozen=True, slots=True)
class Mark:
    """What one worker says of one stage; `cut_ns` is its last sign of life if its capture ends within the stage."""

    worker: int
    start_ns: int
    measure_ns: int | None
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


OWN_TIME_RULE: Final = "tokens, completions and concurrency are counted by their own time"

CLOSED_RULE: Final = (
    f"latencies are of the requests sent inside the window that completed, even after it; {OWN_TIME_RULE}"
)

OPEN_RULE: Final = (
    "latencies are of the requests due inside the window that completed, even if they were sent or completed after it; "
    f"{OWN_TIME_RULE}"
)


def is_open_loop(plan: dict[str, Any]) -> bool:
    """Whether a stage's requests are due at times of their own, whatever became of those before them."""
    return (plan.get("load") or {}).get("mode") == "rate"


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
    last_known_ns = max(m.done_ns or m.cut_ns or m.stop_ns or m.idle_ns or m.measure_ns or m.start_ns for m in marks)
    measured = [mark.measure_ns for mark in marks if mark.measure_ns is not None]
    if len(measured) < len(marks):
        return Window(last_known_ns, last_known_ns, begin_ns, last_known_ns, "the warm-up never ended: nothing counts")
    start_ns = max(measured)
    stops = [mark.stop_ns for mark in marks if mark.stop_ns is not None]
    idles = [mark.idle_ns for mark in marks if mark.idle_ns is not None]
    cuts = [mark.cut_ns for mark in marks if mark.cut_ns is not None]

    ends = []
    if stops:
        ends.append((min(stops), "the end of the arrivals" if is_open_loop(plan) else "the end of sending"))
    if idles and (_is_counted_out(plan) or not stops):
        ends.append((min(idles), "the moment at which the first worker had nothing left to send"))
    stop_ns, why = min(ends, default=(last_known_ns, "the last thing known, for no worker marked an end"))
    if idles and stop_ns == min(idles) and _fewer_requests_than_slots(plan):
        stop_ns, why = last_known_ns, "the end of the last request, for there were fewer requests than slots"
    if cuts and min(cuts) < stop_ns:
        stop_ns, why = min(cuts), "the last sign of life of a worker whose capture is cut"
    rule = f"from the end of the warm-up to {why}: {OPEN_RULE if is_open_loop(plan) else CLOSED_RULE}"
    return Window(start_ns, max(start_ns, stop_ns), begin_ns, max(last_known_ns, stop_ns, start_ns), rule)


def stage_windows(run: Run) -> dict[int, Window]:
    """The window of each stage that has begun."""
    windows = {
        plan["stage"]: stage_window(plan, stage_marks(run.of_stage(plan), plan["stage"]))
        for plan in run.facts["stages"]
    }
    return {stage: window for stage, window in windows.items() if window is not None}


def _units(plan: dict[str, Any]) -> int | None:
    """The requests or sessions that a stage is bounded by."""
    requests: int | None = plan.get("requests")
    sessions: int | None = plan.get("sessions")
    return sessions if requests is None else requests


def _is_counted_out(plan: dict[str, Any]) -> bool:
    # In open loop an idle worker is only between two arrivals; the count bounds the schedule, and that has its own end.
    return _units(plan) is not None and not is_open_loop(plan)


def _fewer_requests_than_slots(plan: dict[str, Any]) -> bool:
    load, units = plan.get("load") or {}, _units(plan)
    return units is not None and load.get("mode") == "concurrency" and units < load["value"]
