"""One run: choose cores and transport, lay out the run directory, have a crew of workers do it; here, or in another place.

RUN/run.json            the resolved spec, versions, host facts; no secret; `ended` says how it ended
RUN/capture/            worker-NN.arrow, see loadgen.schema; of a run that was resumed also part-2/, part-3/ ...
                        of a run on several nodes all of that in node-K/ for each of them, see loadgen.cluster
RUN/bodies/             worker-NN.jsonl with --save-bodies alone, see loadgen.worker.bodies; likewise
"""

import contextlib
import datetime
import errno
import os
import secrets
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import orjson

from loadgen import __version__, host, planner, recipes
from loadgen.clock import NS_PER_MS
from loadgen.coordinator import Judge, Outcome, Watcher, harmless_environment
from loadgen.crew import Crew, Order, part_folder
from loadgen.dialects import find
from loadgen.dialects.credentials import Credentials
from loadgen.errors import RunError, UsageError
from loadgen.plan import Share
from loadgen.schedule.stage import Schedule, schedule
from loadgen.scrape.plan import ScrapePlan, Source
from loadgen.spec import Spec, StageSpec, targets
from loadgen.workload.script import Calibration

RUN_SCHEMA: Final = 1


def choose_cores(
    workers: int | None,
    cpus: tuple[int, ...] | None,
    usable: list[int],
    most_in_flight: int | None,
    quota: float | None = None,
) -> list[int]:
    """The core of each worker. Without a wish every core gets one, but for the first where there are more than two.

    `quota` is how many CPUs' time there is (control groups), which may be less than the cores: more workers would stop one
    another.
    UsageError where the wish cannot be met. More workers than units in flight would have nothing to do.
    """
    if cpus is not None and (missing := [cpu for cpu in cpus if cpu not in usable]):
        raise UsageError(f"--cpus: CPU {missing[0]} cannot be used here; allowed is {_ranges(usable)}")
    cores = list(cpus) if cpus is not None else usable[1:] if len(usable) > 2 and workers is None else usable
    if workers is None:
        if quota is not None and cpus is None and quota < len(usable):
            whole = max(int(quota), 1)
            cores = cores[: whole - 1 if whole > 2 else whole]
        return cores[:most_in_flight]
    if workers > len(cores):
        raise UsageError(
            f"--workers: {workers} workers need as many cores, and there are {len(cores)} ({_ranges(cores)}); "
            "a worker owns its core"
        )
    # The last ones: the first core is where the rest of the machine likes to work.
    return cores[len(cores) - workers :]


def cores(spec: Spec, planned: Sequence[Schedule]) -> list[int]:
    """The core of each worker of a run. UsageError where the wish cannot be met."""
    most_in_flight = planner.most_in_flight(spec, planned)
    chosen = choose_cores(spec.workers, spec.cpus, host.usable_cores(), most_in_flight, host.cpu_quota())
    # A worker without a place could not send its arrivals.
    places = min((stage.max_in_flight for stage in spec.stages if stage.max_in_flight is not None), default=len(chosen))
    if spec.workers is not None and spec.workers > places:
        raise UsageError(
            f"--max-in-flight: {places} are fewer than the {spec.workers} workers; allowed is at least one each"
        )
    return chosen[:places]


def choose_transport(spec: Spec) -> str:
    """kernel where the platform stamps reads and no proxy is asked for, else aiohttp. UsageError if it cannot be had."""
    has_stamps = sys.platform == "linux" and struct.calcsize("P") == 8
    if spec.transport == "kernel" and not has_stamps:
        raise UsageError("--transport: kernel needs 64-bit Linux; allowed here is aiohttp or auto")
    if spec.transport == "auto":
        return "kernel" if has_stamps and spec.proxy is None else "aiohttp"
    return spec.transport


def check_descriptors(in_flight: int | None, workers: int) -> None:
    """UsageError when a worker could not hold its share of the connections. In an open loop without a limit it waits."""
    if in_flight is not None and planner.share(in_flight, 0, workers) > host.most_connections():
        raise UsageError(
            f"--concurrency, --max-in-flight: {in_flight} on {workers} worker(s) needs "
            f"{planner.share(in_flight, 0, workers) + host.SPARE_DESCRIPTORS} descriptors a process, the limit is "
            f"{host.descriptor_limit()}; raise it (ulimit -Hn) or give more --workers"
        )


def default_directory(now: datetime.datetime) -> Path:
    """runs/20260131-174500: where a run goes that was given no --out."""
    return Path("runs") / now.strftime("%Y%m%d-%H%M%S")


def check_directory(run_dir: Path) -> None:
    """UsageError if RUN holds anything, or if it is plain already that it cannot be made. Makes nothing."""
    try:
        if run_dir.exists() and not run_dir.is_dir():
            raise UsageError(f"--out: {str(run_dir)!r} already exists and is no directory; allowed is a new directory")
        if run_dir.exists() and any(run_dir.iterdir()):
            raise UsageError(f"--out: {str(run_dir)!r} already exists and is not empty; allowed is a new directory")
        there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(run_dir, error) from None


def create_directory(run_dir: Path) -> None:
    """Make RUN and RUN/capture. UsageError if it holds anything, or cannot be made."""
    check_directory(run_dir)
    try:
        (run_dir / "capture").mkdir(parents=True)
    except OSError as error:
        raise _unwritable(run_dir, error) from None


def _unwritable(run_dir: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: {str(run_dir)!r} cannot be written ({error.strerror}); allowed is a new directory")


class Place(Protocol):
    """Where the workers of a run are: this machine (Here), or several (loadgen.cluster)."""

    say: Callable[[str], object]
    """Takes what the user should know while the run goes on."""

    @property
    def workers(self) -> int:
        """How many there will be, once it is settled."""

    @property
    def most_connections(self) -> int:
        """How many connections any worker can hold."""

    @property
    def cores(self) -> tuple[int, ...]:
        """Those of this machine that belong to a worker."""

    @property
    def skipped_lines(self) -> int:
        """Lines of a data set that could not be used, so far."""

    @property
    def counts_there(self) -> bool:
        """Whether captures stay where they were written, and are counted there: by `heads` and `tallies`."""

    def heads(self) -> dict[int, bytes]:
        """What the captures of each node say of themselves, as analysis.partials has it."""

    def tallies(self, order: bytes) -> dict[int, bytes]:
        """The captures of each node, counted as analysis.partials orders it."""

    def settle(self, spec: Spec, planned: Sequence[Schedule]) -> None:
        """Choose how many workers there are and their cores. UsageError where the spec cannot be run there."""

    def check(self, in_flight: int | None) -> None:
        """UsageError where the workers could not hold so many connections; None: an open loop without a limit."""

    def facts(self, part: int) -> dict[str, Any]:
        """What run.json says of it: workers, nodes of this part of the run."""

    def throttled_ns(self) -> int:
        """How long the CPU quota has held its processes back since the start, ns."""

    def started(self, order: Order) -> contextlib.AbstractContextManager[None]:
        """The workers, started; leaving ends them. `order` is for all of them together."""

    def stage(
        self, number: int, stage: StageSpec, made: Schedule, watch: Watcher, judge: Judge | None = None
    ) -> Outcome:
        """Run a stage, as Coordinator.stage."""

    def interrupt(self) -> None:
        """As Coordinator.interrupt; before the start, and from a signal handler, too."""


class Here:
    """This machine."""

    def __init__(self) -> None:
        self.say: Callable[[str], object] = str
        self.skipped_lines = 0
        self.counts_there = False
        self._cores: list[int] = []
        self._crew: Crew | None = None
        self._interrupts = 0
        self._throttled_ns = 0

    @property
    def workers(self) -> int:
        """How many there will be, once it is settled."""
        return len(self._cores)

    @property
    def most_connections(self) -> int:
        """How many connections any worker can hold."""
        return host.most_connections()

    @property
    def cores(self) -> tuple[int, ...]:
        """Those that belong to a worker."""
        return tuple(self._cores)

    def heads(self) -> dict[int, bytes]:
        """None: the captures are in the run directory."""
        return {}

    def tallies(self, order: bytes) -> dict[int, bytes]:
        """None, likewise."""
        return {}

    def settle(self, spec: Spec, planned: Sequence[Schedule]) -> None:
        """Choose the cores. UsageError where the wish cannot be met."""
        self._cores = cores(spec, planned)
        self.check(planner.most_in_flight(spec, planned))

    def check(self, in_flight: int | None) -> None:
        """UsageError where the workers could not hold so many connections."""
        check_descriptors(in_flight, len(self._cores))

    def facts(self, part: int) -> dict[str, Any]:
        """What run.json says of it."""
        return {"workers": [{"worker": worker, "core": core} for worker, core in enumerate(self._cores)]}

    def throttled_ns(self) -> int:
        """How long the CPU quota has held its processes back since the start, ns."""
        return host.throttled_ns() - self._throttled_ns

    @contextmanager
    def started(self, order: Order) -> Iterator[None]:
        """The workers, started; leaving ends them."""
        self._throttled_ns = host.throttled_ns()
        pin = hasattr(os, "sched_setaffinity")
        share = Share(0, len(self._cores), len(self._cores))
        with Crew(replace(order, share=share, cores=tuple(core if pin else None for core in self._cores))) as crew:
            self._crew = crew
            for _ in range(self._interrupts):
                crew.interrupt()
            try:
                yield
            finally:
                self._crew, self.skipped_lines = None, crew.skipped_lines

    def stage(
        self, number: int, stage: StageSpec, made: Schedule, watch: Watcher, judge: Judge | None = None
    ) -> Outcome:
        """Run a stage, as Coordinator.stage."""
        assert self._crew is not None
        return self._crew.stage(number, stage, made, watch, judge)

    def interrupt(self) -> None:
        """As Coordinator.interrupt."""
        self._interrupts += 1
        if self._crew is not None:
            self._crew.interrupt()


class Run:
    """A run that `place` can make, and that has not begun. UsageError where it cannot be made there.

    Its stages are those of the spec, and what is added while it goes on. `resumed` is what run.json said when an earlier
    part of the same run was interrupted: stages that are done stay done, and the others go into a capture of their own.
    """

    def __init__(
        self,
        spec: Spec,
        run_dir: Path,
        *,
        credentials: Sequence[Credentials],
        resumed: dict[str, Any] | None = None,
        place: Place | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.place = place or Here()
        self.credentials = credentials
        """Of each target."""
        spec = planner.resolved(spec)
        self.schedules = planner.schedules(spec)
        self.place.settle(spec, self.schedules)
        self.spec = replace(spec, transport=choose_transport(spec))
        planner.ways(self.spec, credentials)
        self.calibration = Calibration()
        self.skipped_lines = 0
        """Lines of the data set or trace that could not be used, with --skip-bad-lines."""
        if recipes.has_script(self.spec):
            recipes.try_script(self.spec, planner.wordings(self.spec))
        elif self.spec.tokenizer is not None:
            planner.pool(self.spec, "model")
        if resumed is None:
            check_directory(run_dir)
        self._facts: dict[str, Any] = resumed or {"run_id": secrets.token_hex(8), "parts": []}
        self.stages: list[dict[str, Any]] = self._facts.setdefault("stages", planner.stages(self.spec, self.schedules))
        """As they stand in run.json, with `part` and `outcome` once they have been run."""
        self._part = len(self._facts["parts"])
        self._nodes_before: list[dict[str, Any]] = self._facts.get("nodes", [])
        self._interrupts = 0

    @property
    def workers(self) -> int:
        """How many workers it will have."""
        return self.place.workers

    @property
    def part(self) -> int:
        """Which part of the run this is, once it has been started."""
        return self._part

    @property
    def run_id(self) -> str:
        """The same in every file of the run."""
        run_id: str = self._facts["run_id"]
        return run_id

    def scrape_plan(self, urls: Sequence[str], every_ns: int) -> ScrapePlan:
        """How to sample these pages beside the run, which must have been started: off the workers' cores where possible.

        The key and secret headers of a target go to pages of its own endpoints alone.
        """
        fields: dict[tuple[str, str | None, int | None], tuple[tuple[str, str], ...]] = {}
        for number, one in enumerate(targets.each(self.spec)):
            name, value = find(one.api).auth
            key, headers = self.credentials[number].key, self.credentials[number].headers
            for url in targets.urls(self.spec, number):
                fields.setdefault(_origin(url), (*([(name, value.format(key=key))] if key else []), *headers))
        free = [cpu for cpu in host.usable_cores() if cpu not in self.place.cores]
        return ScrapePlan(
            sources=tuple(Source(url, url.partition("?")[0], fields.get(_origin(url), ())) for url in urls),
            every_ns=every_ns,
            path=str(part_folder(self.run_dir / "capture", self._part) / "scrape.arrow"),
            run_id=self.run_id,
            cpus=tuple(free) if free and hasattr(os, "sched_setaffinity") else None,
            tls_ca=self.spec.tls_ca,
            insecure=self.spec.insecure,
            secrets=planner.secrets(self.credentials, self.spec.proxy),
            environment=harmless_environment(planner.secrets(self.credentials, self.spec.proxy)),
        )

    @property
    def stages_left(self) -> list[int]:
        """The numbers of the stages that are still to be run."""
        return [stage["stage"] for stage in self.stages if "outcome" not in stage]

    def images(self) -> tuple[str, ...]:
        """Those of one prompt, as URLs."""
        return planner.images(self.spec)

    def change(self, target: int, **settings: Any) -> None:
        """Settle what the endpoint of a target alone could tell: its model, whether it counts tokens."""
        self.spec = targets.with_target(self.spec, target, replace(targets.each(self.spec)[target], **settings))

    def change_stages(self, stages: Sequence[StageSpec]) -> None:
        """Settle what of the stages depends on the endpoint, before the start. UsageError where they cannot be made here."""
        self.spec = replace(self.spec, stages=tuple(stages))
        self.schedules = planner.schedules(self.spec)
        self.place.check(planner.most_in_flight(self.spec, self.schedules))
        self._facts["stages"] = self.stages = planner.stages(self.spec, self.schedules)

    @contextmanager
    def started(self, say: Callable[[str], object] = str, **facts: Any) -> Iterator[None]:
        """The workers, spawned; leaving ends them. The directory is there (create_directory), and every target has its
        model; `facts` go into run.json, and `say` takes what the user should know meanwhile."""
        self.place.say = say
        self._part = len(self._facts["parts"]) + 1
        started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._facts = {
            "schema": RUN_SCHEMA,
            "run_id": self._facts["run_id"],
            "loadgen": __version__,
            "started_at": self._facts.get("started_at", started_at),
            **facts,
            "spec": self.spec.to_json(),
            "targets": planner.target_entries(self.spec),
            "endpoints": planner.endpoint_urls(self.spec),
            "calibration": asdict(self.calibration) if self.spec.calibrate_prompts else None,
            "transport": self.spec.transport,
            "stages": self.stages,
            "host": host.facts(),
            "parts": [*self._facts["parts"], {"part": self._part, "started_at": started_at}],
            "ended": None,
        }
        self._write()
        part_folder(self.run_dir / "capture", self._part).mkdir(parents=True, exist_ok=True)
        order = Order(
            spec=self.spec,
            credentials=self.credentials,
            calibration=self.calibration,
            run_id=self.run_id,
            part=self._part,
            folder=self.run_dir,
            share=Share(0, self.workers, self.workers),
            cores=(),
        )
        try:
            with self.place.started(order):
                yield
        finally:  # the workers have ended, and what they were given is known
            if self.spec.skip_bad_lines:
                self.skipped_lines = self._facts["skipped_lines"] = self.place.skipped_lines

    def add(self, stage: StageSpec) -> int:
        """One more stage, behind the others; gives its number. UsageError where it cannot be made here."""
        number = len(self.stages)
        made = schedule(stage, number, self.spec.seed)
        spec = replace(self.spec, stages=(*self.spec.stages, stage))
        self.place.check(planner.most_in_flight(spec, [*self.schedules, made]))
        self.spec = spec
        self.schedules.append(made)
        self.stages.append(planner.stage_entry(spec, number, stage, made))
        self._facts["spec"] = spec.to_json()
        return number

    def stage(self, number: int, watch: Watcher, judge: Judge | None = None) -> Outcome:
        """Run a stage; its workers must have been started. What was measured stays, whatever happens."""
        entry = self.stages[number]
        entry["part"] = self._part
        self._write()
        outcome = self.place.stage(number, self.spec.stages[number], self.schedules[number], watch, judge)
        if outcome.reason != "interrupted":
            entry["outcome"] = {"reason": outcome.reason, "words": outcome.words}
        self._write()
        return outcome

    def skip(self, number: int, words: str) -> None:
        """Leave a stage out, and say why."""
        self.stages[number]["outcome"] = {"reason": "skipped", "words": words}
        self._write()

    @property
    def is_interrupted(self) -> bool:
        """Whether no more is to be sent."""
        return self._interrupts > 0

    def interrupt(self) -> int:
        """Stop, as Coordinator.interrupt, before the start and from other threads too; gives how often it was asked for."""
        self._interrupts += 1
        self.place.interrupt()
        return self._interrupts

    def ended(self, reason: str, words: str = "") -> None:
        """Note in run.json how the run ended: finished, interrupted or failed. RunError if the disk does not take it."""
        self._facts["ended"] = {"reason": reason, "words": words}
        self._facts["throttled_ms"] = self.place.throttled_ns() // NS_PER_MS
        self._write()

    def _write(self) -> None:
        told = self.place.facts(self._part)
        if nodes := [*self._nodes_before, *told.pop("nodes", [])]:
            self._facts["nodes"] = nodes
        self._facts |= told
        path = self.run_dir / "run.json"
        fresh = path.with_suffix(".json.new")
        try:
            fresh.write_bytes(orjson.dumps(self._facts, option=orjson.OPT_INDENT_2))
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise RunError(f"{path} cannot be written: {error.strerror}") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _ranges(cpus: list[int]) -> str:
    return ",".join(str(cpu) for cpu in cpus)
