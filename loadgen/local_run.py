"""One run on this machine: choose cores and transport, lay out the run directory, have the coordinator do it.

RUN/run.json            the resolved spec, versions, host facts; no secret; `ended` says how it ended
RUN/capture/            worker-NN.arrow, see loadgen.schema; of a run that was resumed also part-2/, part-3/ ...
RUN/bodies/             worker-NN.jsonl with --save-bodies alone, see loadgen.worker.bodies
"""

import contextlib
import datetime
import errno
import os
import secrets
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from loadgen import __version__, host, planner, recipes
from loadgen.board import Board
from loadgen.clock import NS_PER_MS
from loadgen.coordinator import Coordinator, Judge, Outcome, Watcher, harmless_environment
from loadgen.dialects import find
from loadgen.dialects.credentials import Credentials
from loadgen.errors import RunError, UsageError
from loadgen.plan import WorkerPlan
from loadgen.preparation import Preparation
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


def most_connections() -> int:
    """How many connections a worker can hold."""
    return host.most_connections()


def check_descriptors(in_flight: int | None, workers: int) -> None:
    """UsageError when a worker could not hold its share of the connections. In an open loop without a limit it waits."""
    if in_flight is not None and planner.share(in_flight, 0, workers) > most_connections():
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
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise UsageError(f"--out: {str(run_dir)!r} already exists and is not empty; allowed is a new directory")
        there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(run_dir, error) from None


def capture_folder(run_dir: Path, part: int) -> Path:
    """Where the captures of a part of a run go: of the first one directly into capture/."""
    return run_dir / "capture" if part == 1 else run_dir / "capture" / f"part-{part}"


def create_directory(run_dir: Path) -> None:
    """Make RUN and RUN/capture. UsageError if it holds anything, or cannot be made."""
    check_directory(run_dir)
    try:
        (run_dir / "capture").mkdir(parents=True)
    except OSError as error:
        raise _unwritable(run_dir, error) from None


def _unwritable(run_dir: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: {str(run_dir)!r} cannot be written ({error.strerror}); allowed is a new directory")


class Run:
    """A run that this machine can make, and that has not begun. UsageError where it cannot be made here.

    Its stages are those of the spec, and what is added while it goes on. `resumed` is what run.json said when an earlier
    part of the same run was interrupted: stages that are done stay done, and the others go into a capture of their own.
    """

    def __init__(
        self, spec: Spec, run_dir: Path, *, credentials: Sequence[Credentials], resumed: dict[str, Any] | None = None
    ) -> None:
        self.run_dir = run_dir
        self.credentials = credentials
        """Of each target."""
        spec = planner.resolved(spec)
        self.schedules = planner.schedules(spec)
        self._cores = cores(spec, self.schedules)
        self.spec = replace(spec, transport=choose_transport(spec))
        planner.ways(self.spec, credentials)
        self.calibration = Calibration()
        self.skipped_lines = 0
        """Lines of the data set or trace that could not be used, with --skip-bad-lines."""
        if recipes.has_script(self.spec):
            recipes.try_script(self.spec, planner.wordings(self.spec))
        elif self.spec.tokenizer is not None:
            planner.pool(self.spec, "model")
        check_descriptors(planner.most_in_flight(spec, self.schedules), len(self._cores))
        if resumed is None:
            check_directory(run_dir)
        self._facts: dict[str, Any] = resumed or {"run_id": secrets.token_hex(8), "parts": []}
        self.stages: list[dict[str, Any]] = self._facts.setdefault("stages", planner.stages(self.spec, self.schedules))
        """As they stand in run.json, with `part` and `outcome` once they have been run."""
        self._coordinator: Coordinator | None = None
        self._throttled_ns = 0
        self._interrupts = 0

    @property
    def workers(self) -> int:
        """How many workers it will have."""
        return len(self._cores)

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
        free = [cpu for cpu in host.usable_cores() if cpu not in self._cores]
        return ScrapePlan(
            sources=tuple(Source(url, url.partition("?")[0], fields.get(_origin(url), ())) for url in urls),
            every_ns=every_ns,
            path=str(capture_folder(self.run_dir, self._part) / "scrape.arrow"),
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

    @contextmanager
    def started(self, **facts: Any) -> Iterator[None]:
        """The workers, spawned; leaving ends them. The directory is there (create_directory), and every target has its
        model; `facts` go into run.json."""
        machine = host.facts()
        pin = hasattr(os, "sched_setaffinity")
        self._part = len(self._facts["parts"]) + 1
        started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._throttled_ns = host.throttled_ns()
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
            "workers": [{"worker": worker, "core": core} for worker, core in enumerate(self._cores)],
            "host": machine,
            "parts": [*self._facts["parts"], {"part": self._part, "started_at": started_at}],
            "ended": None,
        }
        folder = capture_folder(self.run_dir, self._part)
        self._write()
        board = Board(len(self._cores))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            preparation = self._preparation(pin)
            plans = planner.worker_plans(
                self.spec,
                self.schedules,
                credentials=self.credentials,
                transport=self.spec.transport,
                cores=[core if pin else None for core in self._cores],
                run_id=self._facts["run_id"],
                host=machine,
                capture_paths=[str(folder / f"worker-{worker:02}.arrow") for worker in range(len(self._cores))],
                board_fd=board.fd,
                scripts=None if preparation is None else preparation.scripts,
                calibration=self.calibration,
            )
            if self.spec.save_bodies:
                plans = self._with_bodies(plans)
            check = (lambda: None) if preparation is None else preparation.check
            with preparation or nullcontext(), Coordinator(plans, board, check=check) as self._coordinator:
                if self._interrupts:
                    self._coordinator.interrupt()
                try:
                    yield
                finally:
                    if preparation is not None and self.spec.skip_bad_lines:
                        self.skipped_lines = self._facts["skipped_lines"] = preparation.skipped_lines
        finally:
            self._coordinator = None
            board.close()

    def _with_bodies(self, plans: list[WorkerPlan]) -> list[WorkerPlan]:
        folder = self.run_dir / "bodies" / ("" if self._part == 1 else f"part-{self._part}")
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}") from None
        return [replace(plan, bodies_path=str(folder / f"worker-{plan.worker:02}.jsonl")) for plan in plans]

    def _preparation(self, pin: bool) -> Preparation | None:
        """Where requests are prepared while the run goes on: beside the workers, if there is a core without one."""
        if not recipes.has_script(self.spec):
            return None
        free = [cpu for cpu in host.usable_cores() if cpu not in self._cores] or host.usable_cores()
        return Preparation(
            recipes.recipe(self.spec, self.spec.model or "", self.calibration),
            planner.speaking(self.spec),
            planner.dealt(self.spec),
            len(self._cores),
            cpus=free if pin else None,
            longest_tokens=recipes.longest_tokens(self.spec),
            environment=harmless_environment(planner.secrets(self.credentials, self.spec.proxy)),
        )

    def add(self, stage: StageSpec) -> int:
        """One more stage, behind the others; gives its number. UsageError where it cannot be made here."""
        number = len(self.stages)
        made = schedule(stage, number, self.spec.seed)
        spec = replace(self.spec, stages=(*self.spec.stages, stage))
        check_descriptors(planner.most_in_flight(spec, [*self.schedules, made]), len(self._cores))
        self.spec = spec
        self.schedules.append(made)
        self.stages.append(planner.stage_entry(spec, number, stage, made))
        self._facts["spec"] = spec.to_json()
        return number

    def stage(self, number: int, watch: Watcher, judge: Judge | None = None) -> Outcome:
        """Run a stage; its workers must have been started. What was measured stays, whatever happens."""
        assert self._coordinator is not None
        entry = self.stages[number]
        entry["part"] = self._part
        self._write()
        most = most_connections()
        outcome = self._coordinator.stage(
            [
                planner.worker_stage(
                    number, self.spec.stages[number], self.schedules[number], worker, self.workers, most
                )
                for worker in range(self.workers)
            ],
            watch,
            judge,
        )
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
        if self._coordinator is not None:
            self._coordinator.interrupt()
        return self._interrupts

    def ended(self, reason: str, words: str = "") -> None:
        """Note in run.json how the run ended: finished, interrupted or failed. RunError if the disk does not take it."""
        self._facts["ended"] = {"reason": reason, "words": words}
        self._facts["throttled_ms"] = (host.throttled_ns() - self._throttled_ns) // NS_PER_MS
        self._write()

    def _write(self) -> None:
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
