"""What everything that makes load shares, on the command line and in Python: check the endpoint, run the stages, analyse.

Nothing here prints but through the console it is given, and nothing exits.
"""

import datetime
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from loadgen.blotting import blotted
from loadgen.errors import EndpointError, LoadgenError, RunError
from loadgen.job.backlog import backlog_judge
from loadgen.job.watching import Watching

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.summary import Analysis
    from loadgen.coordinator import Judge, Outcome, StageNow
    from loadgen.dialects.dialect import Dialect
    from loadgen.job.progress import Progress
    from loadgen.local_run import Place, Run
    from loadgen.plan import Endpoint
    from loadgen.probe import Pace
    from loadgen.spec import Spec

MAX_SENTENCE = 600
"""Characters of a server's words that are shown."""

# An endpoint is idle when a single request takes no longer than this many times what it took before all load, and a little.
IDLE_FACTOR: Final = 2.0
IDLE_SLACK_S: Final = 0.05

MOST_COOLDOWN_S: Final = 60.0
"""An endpoint that is not idle by then is loaded by somebody else, or broken: the next stage will show it."""

LOOK_S: Final = 0.25


@dataclass
class Job:
    """A run under way, or about to be; `baseline_s` is how long a single request took before any load."""

    run: "Run"
    console: "Console"
    """For what is told while it goes on; the results are not."""
    baseline_s: float | None = None
    paces: "list[Pace]" = field(default_factory=list)
    """How the last such request was answered, by each endpoint."""
    resumed: bool = False
    interrupted: bool = False
    signal_number: int | None = None
    """Of the first signal that told it to end."""
    words: str = ""
    """What went wrong, if something did."""
    outcomes: list["Outcome"] = field(default_factory=list)
    watching: Watching = field(default_factory=Watching)
    complaints: list[str] = field(default_factory=list)
    """What could not be written, and costs no number."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be said."""
        from loadgen import planner

        return planner.secrets(self.run.credentials, self.run.spec.proxy)

    def _speaker(self, target: int) -> "tuple[Dialect, list[tuple[str, str]]]":
        """How a target is spoken to, and with which headers."""
        from loadgen import planner
        from loadgen.dialects import spoken
        from loadgen.dialects.credentials import header_fields
        from loadgen.spec import targets

        one = targets.each(self.run.spec)[target]
        dialect = spoken(planner.wording(one))
        return dialect, header_fields(dialect, self.run.credentials[target], one.header)

    def one_request_s(self) -> float:
        """How long a short request takes, alone, at the slowest endpoint. EndpointError if it does not work at one."""
        from loadgen import planner

        self.paces.clear()
        return max(
            self._one_request_s(target, where)
            for target, endpoints in enumerate(planner.endpoints(self.run.spec))
            for where in endpoints
        )

    def response_s(self, tokens: float) -> float:
        """How long a response of so many tokens takes without load, by that request, at the slowest endpoint."""
        return max(pace.response_s(tokens) for pace in self.paces)

    def _one_request_s(self, target: int, where: "Endpoint") -> float:
        from loadgen import probe
        from loadgen.spec import targets

        one, began_s = targets.each(self.run.spec)[target], time.monotonic()
        dialect, fields = self._speaker(target)
        with self._asking(target, where):
            checked = probe.check(
                where,
                dialect,
                one.model or "",
                fields,
                ignore_eos=one.ignore_eos,
                images=self.run.images(),
                connect_timeout_s=one.connect_timeout_s,
                timeout_s=one.timeout_s,
            )
        self.paces.append(checked.pace)
        if not checked.takes_stream_options:
            self.run.change(target, usage="none")
            self.console.print("The endpoint refuses stream_options, so it is not asked for usage (--usage none).")
        return time.monotonic() - began_s

    def find_models(self) -> None:
        """Settle the model of each target: the one that was asked for, else the first that its endpoint lists. EndpointError
        if it lists none."""
        from loadgen import planner, probe
        from loadgen.spec import targets

        for target, one in enumerate(targets.each(self.run.spec)):
            if one.model is not None:
                continue
            (where, *_), (dialect, fields) = planner.endpoints(self.run.spec)[target], self._speaker(target)
            with self._asking(target, where):
                model = probe.find_model(where, dialect, fields, connect_timeout_s=one.connect_timeout_s)
            if blotted(model, self.secrets) != model:  # it would be written into every file of the run
                raise EndpointError(
                    "no-model", "--model: not given, and the first one that is listed quotes the API key"
                )
            self.run.change(target, model=model)

    def find_apis(self, open_ones: Collection[int]) -> None:
        """Settle the APIs of these targets, whose URLs leave them open, where the endpoints say it."""
        from loadgen import planner, probe
        from loadgen.spec import targets

        for target, one in enumerate(targets.each(self.run.spec)):
            if target not in open_ones:
                continue
            (where, *_), (dialect, fields) = planner.endpoints(self.run.spec)[target], self._speaker(target)
            with self._asking(target, where):
                api = probe.find_api(where, dialect, one.model or "", fields, connect_timeout_s=one.connect_timeout_s)
            if api != one.api:
                self.run.change(target, api=api)

    @contextmanager
    def _asking(self, target: int, where: "Endpoint") -> Iterator[None]:
        """An EndpointError without secrets, and where there are several targets or URLs, it says of which."""
        from loadgen import probe
        from loadgen.spec import targets

        spec = self.run.spec
        try:
            with kept_secret(self.secrets):
                yield
        except EndpointError as error:
            if not spec.targets:
                raise
            words = f"{targets.names(spec)[target]} at {probe.base_url(where)}: {error}"
            raise EndpointError(error.error_class, words) from None

    def calibrate(self) -> None:
        """Find out what the endpoint makes of prompts, and make them so that it counts what is wanted."""
        from loadgen import planner, probe, recipes
        from loadgen.dialects.answer import Ask

        run = self.run
        (((where, *_),), (dialect, fields)) = planner.endpoints(run.spec), self._speaker(0)
        images = planner.images(run.spec)

        def counted(prompts: list[str]) -> list[int]:
            counts = []
            for prompt in prompts:
                ask = Ask(run.spec.model or "", prompt, 1, False, images=images)
                answer = probe.ask_once(where, dialect, ask, fields, connect_timeout_s=run.spec.connect_timeout_s)
                if answer.prompt_tokens is None:
                    raise EndpointError(
                        "no-usage",
                        "--calibrate-prompts: the endpoint does not say how many tokens a prompt has; leave it out",
                    )
                counts.append(answer.prompt_tokens)
            return counts

        with kept_secret(self.secrets):
            found = run.calibration = recipes.calibrated(run.spec, counted)
        words = "" if found.tokens_per_word == 1 else f", and counts {found.tokens_per_word:.3f} tokens a word"
        self.console.print(
            f"calibrated: the endpoint adds {found.overhead_tokens} tokens to a prompt{words}", highlight=False
        )

    def stage(self, number: int, progress: "Progress", judge: "Judge | None" = None) -> "Outcome":
        """Run a stage. It is cut by what `judge` says, or by --abort-on."""
        from loadgen.job.breaker import breaker, first_of

        def watch(now: "StageNow") -> None:
            self.watching.look(now, self.run.stages[number])
            progress(now)

        judges = [breaker(self.run.stages[number], self.run.spec.abort_on), judge]
        outcome = self.run.stage(number, watch, first_of(judges))
        progress.stage_ended()
        self.watching.stage_ended()
        self.outcomes.append(outcome)
        self.interrupted = outcome.reason == "interrupted"
        return outcome

    def broken_off(self, number: int, words: str) -> None:
        """Leave out the stages that are left, and say why the run is at its end."""
        self.words = words
        for left in self.run.stages_left:
            self.run.skip(left, f"left out after {self.run.stages[number]['name']}: {words}")

    def cool_down(self, progress: "Progress", least_s: float) -> None:
        """Wait so long, and then until the endpoint answers a single request about as quickly as before the load."""
        deadline_s = time.monotonic() + least_s
        while time.monotonic() < deadline_s and not self.run.is_interrupted:
            time.sleep(min(LOOK_S, max(deadline_s - time.monotonic(), 0)))
        if self.baseline_s is None:
            return
        deadline_s, limit_s = time.monotonic() + MOST_COOLDOWN_S, self.baseline_s * IDLE_FACTOR + IDLE_SLACK_S
        taken_s = 0.0
        while not self.run.is_interrupted:
            try:
                taken_s = self.one_request_s()
            except EndpointError as error:  # a 503 or 429 is load, too; whatever it is, the next stage will tell
                progress.say(f"The endpoint does not answer between two stages: {error}")
                taken_s = limit_s * 2
            if taken_s <= limit_s or time.monotonic() > deadline_s:
                break
            time.sleep(LOOK_S)
        if taken_s > limit_s and not self.run.is_interrupted:
            progress.say(
                f"The endpoint is not idle after {MOST_COOLDOWN_S:.0f} s: one request takes {taken_s:.2f} s, "
                f"and took {self.baseline_s:.2f} s before the load"
            )


def has_own_process() -> bool:
    """Whether this process is there for the job alone; in Python and notebooks, where it is not, a job has a thread."""
    return threading.current_thread() is threading.main_thread()


def prepared(
    spec: "Spec",
    out: Path | None,
    console: "Console",
    *,
    key: str | None = None,
    no_check: bool,
    resume: dict[str, Any] | None = None,
    wants_baseline: bool = False,
    agree: "Callable[[Run], None] | None" = None,
    watching: Watching | None = None,
    place: "Place | None" = None,
) -> Job:
    """A job whose endpoint has answered one request; nothing is written yet. What cannot be done is refused before that.

    `agree` is asked before anything is sent, and raises where the load is not meant. The workers are at `place`; None: here.
    """
    from loadgen import host, local_run, planner
    from loadgen.dialects import AUTO
    from loadgen.job import environment, warm_up
    from loadgen.spec import targets

    autos = [target for target, one in enumerate(targets.each(spec)) if one.api == AUTO]
    spec = planner.resolved(warm_up.settled(spec) if no_check else spec)
    run_dir = out or local_run.default_directory(datetime.datetime.now())
    proofs = environment.credentials(spec, key)
    if any(one.secrets for one in proofs) and has_own_process():
        host.keep_memory_private()
    made = local_run.Run(spec, run_dir, credentials=proofs, resumed=resume, place=place)
    if agree is not None:
        agree(made)
    job = Job(made, console, resumed=resume is not None, watching=watching or Watching())
    job.find_models()
    if autos and not no_check:
        job.find_apis(autos)
    if not no_check:
        taken_s = job.one_request_s()
        if wants_baseline:  # the first one paid for what is loaded on demand
            job.baseline_s = min(taken_s, job.one_request_s())
        warm_up.follow(job)
    if spec.calibrate_prompts:
        job.calibrate()
    return job


def make_load(
    job: Job, drive: Callable[[Job, "Progress"], None], *, command: str, question: dict[str, Any] | None = None
) -> None:
    """Start the workers and let `drive` run the stages; what went wrong goes into job.words, and what was measured stays.

    UsageError where the directory cannot be made.
    """
    from loadgen import host, local_run
    from loadgen.job.progress import Progress

    if not job.resumed:
        local_run.create_directory(job.run.run_dir)
    facts: dict[str, Any] = {"command": command} | ({"question": question} if question else {}) | {"floor": _floor()}
    try:
        with (
            Progress(job.run.stages, job.console, all_planned=question is None) as progress,
            job.run.started(progress.say, **facts),
            job.watching.of_run(job.run, progress.say),
            interruptible(job, progress),
        ):
            if sys.platform == "linux" or has_own_process():
                host.step_back()  # the workers have been started: this thread only watches from here on
            drive(job, progress)
        if job.run.skipped_lines:
            job.console.print(
                f"passed over, for they cannot be used: {job.run.skipped_lines:,} of the lines read", highlight=False
            )
    except LoadgenError as error:
        job.words = str(error)
        _note_end(job, "failed", str(error))
        return
    last = job.outcomes[-1] if job.outcomes else None
    failed = last is not None and last.reason == "failed"
    if failed and last is not None:
        job.words = last.words
    _note_end(job, "interrupted" if job.interrupted else "failed" if failed else "finished", last.words if last else "")


def _floor() -> dict[str, Any] | None:
    """How well this machine measured what is known (loadgen doctor), for the results to quote; None if it never did."""
    from loadgen import __version__, host
    from loadgen.doctor import floor
    from loadgen.job import environment

    told = floor.known(environment.cache_folder(), floor.key(host.facts(), __version__))
    return told and {name: told.get(name) for name in floor.QUOTED}


def _note_end(job: Job, reason: str, words: str) -> None:
    try:
        job.run.ended(reason, words)
    except RunError as error:  # a full disk: what was measured can be shown all the same
        job.complaints.append(str(error))


def every_stage(job: Job, progress: "Progress") -> None:
    """The stages of the spec in their order, with a cool-down between, and without those that are hopeless."""
    spec, is_first = job.run.spec, True
    for number in job.run.stages_left:
        if "outcome" in job.run.stages[number]:  # left out since
            continue
        if spec.cooldown_s and not is_first:
            job.cool_down(progress, spec.cooldown_s)
        is_first = False
        judge = backlog_judge(job.run.stages[number]) if spec.early_stop else None
        outcome = job.stage(number, progress, judge)
        if outcome.reason == "cut" and not spec.early_stop:  # by the breaker: more load would do the same again
            job.broken_off(number, outcome.words)
            return
        if outcome.reason == "interrupted":
            return
        has_results = any(one.reason in ("finished", "cut") for one in job.outcomes) or job.resumed
        if outcome.reason == "failed" and not (spec.early_stop and has_results):
            return
        if spec.early_stop and (outcome.reason in ("failed", "cut") or _mostly_failed(job, progress, number)):
            _leave_out_higher(job, progress, number, outcome.words or "most requests failed")
    if job.outcomes and job.outcomes[-1].reason == "failed":  # hopeless, but not the first: the others are the result
        job.outcomes.pop()


def _mostly_failed(job: Job, progress: "Progress", number: int) -> bool:
    now = progress.latest
    return now is not None and now.stage == number and now.failed > now.completed


def _leave_out_higher(job: Job, progress: "Progress", number: int, words: str) -> None:
    stages = job.run.stages
    load = stages[number]["load"]
    higher = [
        stage
        for stage in stages
        if "outcome" not in stage
        and stage["load"]["mode"] == load["mode"]
        and not stage["warms_up"]
        and (stage["load"].get("value") or 0) >= (load.get("value") or 0)
    ]
    for stage in higher:
        job.run.skip(stage["stage"], f"left out after {stages[number]['name']}: {words}")
    if higher:
        names = ", ".join(sorted({str(stage["name"]) for stage in higher}))
        progress.say(f"{stages[number]['name']}: {words}; leaving out {names}")


@contextmanager
def interruptible(job: Job, progress: "Progress") -> Iterator[None]:
    """SIGINT and SIGTERM stop the run meanwhile; in a thread, where signals do not come, nothing does.

    SIGTERM comes from a supervisor that soon kills (Ray after 3 s, Kubernetes after 30): nothing in flight is waited for.
    """
    if not has_own_process():
        yield
        return

    def on_interrupt(number: int, _frame: FrameType | None) -> None:
        job.signal_number = job.signal_number or number
        if number == signal.SIGTERM:
            if job.run.interrupt() == 1:
                progress.say("Told to end: what is in flight is cancelled.")
            job.run.interrupt()
        elif job.run.interrupt() == 1:
            progress.say("Interrupted: sending no more, waiting for what is in flight (again: stop at once).")

    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_secret(secrets: tuple[str, ...]) -> Iterator[None]:
    """Blot out keys in an EndpointError: servers like to quote them."""
    try:
        yield
    except EndpointError as error:
        words = blotted(str(error), secrets)
        raise EndpointError(
            error.error_class, words if len(words) <= MAX_SENTENCE else f"{words[:MAX_SENTENCE]}..."
        ) from None


def counted(run: "Run") -> "Analysis":
    """The analysis of a run, finished or not, by whoever has its captures. CaptureError where there is none to read."""
    from analysis import partials, summary

    place, run_dir = run.place, run.run_dir
    if place.counts_there:
        heads, tallies = place.heads(), dict[int, bytes]()
        while heads.keys() != tallies.keys():
            tallies = place.tallies(partials.order(partials.gathered(run_dir, list(heads.values()))))
            heads = {node: head for node, head in heads.items() if node in tallies}  # one may be lost meanwhile
        for node, head in heads.items():
            partials.keep(run_dir, node, head, tallies[node], run.part)
    return summary.analyse(run_dir)


def analysed(job: Job) -> "Analysis | None":
    """The analysis of a run, written beside its capture; None, with a complaint, where there is none."""
    from analysis.summary import write
    from loadgen.schema import CaptureError

    analysis = None
    try:
        analysis = counted(job.run)
        write(job.run.run_dir, analysis)
    except CaptureError as error:
        job.complaints.append(str(error))
        return None
    except OSError as error:
        job.complaints.append(f"the summary could not be written: {error.strerror or error}")
    return analysis
