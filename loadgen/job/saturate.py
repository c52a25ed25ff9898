"""How much can it take? Stage by stage, each chosen by what the ones before have shown."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from loadgen.clock import NS_PER_MS
from loadgen.errors import UsageError
from loadgen.job import Job, counted, make_load
from loadgen.job.backlog import backlog_judge

if TYPE_CHECKING:
    from analysis.search import Answer, Bounds, Point
    from loadgen.job.progress import Progress
    from loadgen.spec import Spec, StageSpec

CHOSEN_HERE: Final = frozenset(
    {
        "concurrency", "rate", "requests", "sessions", "duration", "warmup", "warmup_requests", "ramp_up", "drain",
        "repeat", "shuffle", "early_stop", "late",
    }
)  # fmt: skip
"""Settings of a load that the search itself sets."""

# Of the budget: a stage by itself, its warm-up and its window at most. A search takes ten to twenty stages.
WINDOW_PART: Final = 40
MOST_WARMUP_PART: Final = 10
MOST_WINDOW_PART: Final = 8

LEAST_WINDOW_S: Final = 2.0

# A window holds so many responses one behind the other, and a warm-up a little more than one.
RESPONSES: Final = 2.5
WARMUP_RESPONSES: Final = 1.3

BETWEEN_S: Final = 1.0
"""From the end of a stage's window to the begin of the next, beside the responses that are still under way."""

CHECKED_TOKENS: Final = 8
"""Of the request that checks the endpoint."""

MOST_RATE_HERE: Final = 100_000.0


def searched(spec: "Spec") -> "Spec":
    """A spec whose one stage is a pattern for those of the search; objectives without a percentile get one."""
    from analysis.saturation import DEFAULT_PERCENTILE
    from loadgen import planner
    from loadgen.dialects import find

    if find(planner.resolved(spec).api).framing == "json":
        raise UsageError(
            "--api: a search goes by output tokens, and this API has none; loadgen sweep measures its inputs a second"
        )
    if spec.think is not None and spec.turns is None:
        raise UsageError("--think: users who think are not in flight, and the search is over what is; leave it out")
    slo = spec.slo and {
        name: limit | {"percentile": limit["percentile"] or DEFAULT_PERCENTILE} for name, limit in spec.slo.items()
    }
    return replace(spec, slo=slo)


def saturate(
    job: Job, pattern: "StageSpec", mode: str, budget_s: float, start: float | None, most: float | None
) -> dict[str, Any] | None:
    """Search until there is an answer or the budget is spent; what saturation.json says, None where nothing was measured."""
    question = "slo" if job.run.spec.slo else "knee"
    search = Search(job, pattern, mode, question, time.monotonic() + budget_s, budget_s, start, most)
    make_load(
        job, search.drive, command="saturate", question={"question": question, "mode": mode, "budget_s": budget_s}
    )
    return search.write()


@dataclass
class Search:
    """The search's state beside the run's: when it has to end, and what the stages so far came to."""

    job: Job
    pattern: "StageSpec"
    mode: str
    question: str
    deadline_s: float
    budget_s: float
    start: float | None
    most: float | None

    def __post_init__(self) -> None:
        self.stages: list[dict[str, Any]] = []
        self.long: list[float] = []
        """Loads whose stages were long."""

    @property
    def is_closed(self) -> bool:
        return self.mode == "concurrency"

    def bounds(self) -> "Bounds":
        """Between which loads to look: what this machine has descriptors for, or what the user allows."""
        from analysis.search import Bounds

        run = self.job.run
        most = float(run.place.most_connections * run.workers) if self.is_closed else MOST_RATE_HERE
        start = self.start or (1.0 if self.is_closed else 1 / max(self.one_response_s(), 1e-3))
        is_wish = self.most is not None and self.most < most
        most = min(most, self.most or most)
        return Bounds(min(start, most), most, self.is_closed, is_wish)

    def one_response_s(self) -> float:
        """How long a response takes without other load: as measured, or guessed from the request of the check."""
        from loadgen.recipes import first_output_tokens

        alone = [stage["e2e_ms"]["p50"] / 1000 for stage in self.stages if stage["e2e_ms"]]
        if alone:
            return float(min(alone))
        return (self.job.baseline_s or 0.1) * max(1.0, first_output_tokens(self.job.run.spec) / CHECKED_TOKENS)

    def response_s(self, load: float) -> float:
        """How long a response may take at this load: as at lower ones, and in a closed loop longer beyond the knee."""
        known = [stage for stage in self.stages if stage["e2e_ms"] and not (stage["backlog"] or {}).get("grows")]
        if not known:
            return self.one_response_s()
        taken_s = {float(stage["load"]["value"]): stage["e2e_ms"]["p50"] / 1000 for stage in known}
        expected_s = float(max((one for at, one in taken_s.items() if at <= load), default=min(taken_s.values())))
        if self.is_closed:
            best = max(known, key=lambda stage: float(stage["output_tokens_per_s"] or 0.0))
            served_per_s = (best["output_tokens_per_s"] or 0.0) / (best["output_tokens_a_request"] or 1.0)
            # Little's law at the best throughput so far, once that is well below what the slots alone would give.
            if 0 < served_per_s < 0.8 * max(taken_s) / min(taken_s.values()):
                expected_s = max(expected_s, load / served_per_s)
        return expected_s

    def stage_for(self, load: float, *, is_long: bool = False) -> "StageSpec":
        """One stage at this load, as long as the responses and the budget ask for."""
        from analysis.search import long_share
        from loadgen.schedule.arrivals import Process
        from loadgen.schedule.profile import parse_profile
        from loadgen.spec import plain

        taken_s = self.response_s(load)
        level = parse_profile(plain(int(load)) if self.is_closed else plain(load))
        warmup_s = min(max(0.3, WARMUP_RESPONSES * taken_s), max(1.0, self.budget_s / MOST_WARMUP_PART))
        window_s = min(
            max(LEAST_WINDOW_S, self.budget_s / WINDOW_PART, RESPONSES * taken_s),
            max(LEAST_WINDOW_S, self.budget_s / MOST_WINDOW_PART),
        )
        if is_long:  # a quarter of it warms up: a queue takes its time to become what it will be
            left_s = (self.deadline_s - time.monotonic()) * long_share(len(self.long))
            whole_s = max(left_s - RESPONSES / 2 * taken_s - BETWEEN_S, warmup_s + window_s)
            warmup_s, window_s = max(warmup_s, whole_s / 4), whole_s * 3 / 4
        arrivals = self.pattern.arrivals
        if self.question == "slo" and arrivals is not None and arrivals.kind == "poisson":
            arrivals = Process("typical", response_ns=max(round(taken_s * 1000), 1) * NS_PER_MS)
        return replace(
            self.pattern,
            concurrency=level if self.is_closed else None,
            rate=None if self.is_closed else level,
            arrivals=arrivals,
            warmup_s=round(warmup_s, 3),
            duration_s=round(window_s, 3),
            # Objectives need every response to its end; throughput does not, and long ones are given up.
            drain_s=round(2 * taken_s + 1, 3)
            if self.question == "slo" or taken_s < self.budget_s / WINDOW_PART
            else 0.0,
        )

    def next_step(self) -> Any:
        """search.Try or search.Answer."""
        from analysis import saturation, search

        again = saturation.disturbed(self.stages)
        if again is not None:
            return search.Try(again, "once more: this machine was disturbed")
        ask = search.next_for_slo if self.question == "slo" else search.next_for_knee
        return ask(self.points(), self.bounds())

    def points(self) -> "list[Point]":
        from analysis import saturation

        return saturation.points(self.stages, self.long)

    def drive(self, job: Job, progress: "Progress") -> None:
        """Stage after stage."""
        from analysis.search import Answer

        while not isinstance(step := self.next_step(), Answer):
            stage = self.stage_for(step.load, is_long=step.is_long)
            assert stage.duration_s is not None
            takes_s = stage.warmup_s + stage.duration_s + min(stage.drain_s, self.response_s(step.load))
            if time.monotonic() + takes_s > self.deadline_s:
                return
            if step.is_long:
                self.long.append(step.load)
            number = job.run.add(stage)
            progress.say(f"{job.run.stages[number]['name']}: {step.why}")
            judge = backlog_judge(job.run.stages[number], max(LEAST_WINDOW_S, self.response_s(step.load)))
            outcome = job.stage(number, progress, judge)
            if outcome.reason == "interrupted" or (outcome.reason == "failed" and number == 0):
                return
            self.stages = counted(job.run).summary["stages"]
            if outcome.reason == "failed":
                job.outcomes.pop()  # a load at which everything fails is beyond the limit, and a result
            if outcome.reason in ("cut", "failed") or self.is_full():
                job.cool_down(progress, 0.0)

    def is_full(self) -> bool:
        """Whether the last stage gave up what was in flight, so that the endpoint may still be busy with it."""
        return bool(self.stages) and self.stages[-1]["requests"]["errors"].get("unfinished", 0) > 0

    def answer(self) -> "Answer":
        """The answer, or the best that can be said where the budget was spent or the search was interrupted."""
        from analysis.search import Answer, so_far

        step = self.next_step() if self.stages else None
        if isinstance(step, Answer):
            return step
        words = "the search was interrupted" if self.job.interrupted else f"the budget of {self.budget_s:g} s was spent"
        found = so_far(self.question, self.points(), self.bounds())
        return found._replace(limited_by="budget", reasons=(words, *found.reasons), decided=False)

    def write(self) -> dict[str, Any] | None:
        """saturation.json; None, and nothing written, where not one stage was measured."""
        from analysis import saturation
        from loadgen.schema import CaptureError

        try:
            self.stages = counted(self.job.run).summary["stages"]
        except (CaptureError, OSError):
            return None
        if not self.stages:
            return None
        told = saturation.document(self.question, self.mode, self.answer(), self.points(), self.stages)
        saturation.write(self.job.run.run_dir, told)
        return told
