"""The workers of a run that are on this machine: their board, the preparer beside them, and the coordinator over them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from loadgen import host, planner, recipes
from loadgen.board import Board
from loadgen.coordinator import Coordinator, Judge, Outcome, Watcher, harmless_environment
from loadgen.dialects.credentials import Credentials
from loadgen.errors import RunError
from loadgen.plan import Share, StagePlan, WorkerPlan
from loadgen.preparation import Preparation
from loadgen.schedule.stage import Schedule
from loadgen.spec import Spec, StageSpec
from loadgen.workload.script import Calibration


@dataclass(frozen=True, slots=True)
class Order:
    """What the workers of a machine are to do; holds the keys, in `credentials`. All targets know their models."""

    spec: Spec
    credentials: Sequence[Credentials]
    """Of each target."""
    calibration: Calibration
    run_id: str
    part: int
    """Of the run, from 1; each resumption is one more."""
    folder: Path
    """Holds capture/ and bodies/; the run directory, where it is the driver's machine."""
    share: Share
    cores: tuple[int | None, ...]
    """The CPU of each worker; None: wherever the kernel likes."""


def part_folder(folder: Path, part: int) -> Path:
    """Where in `folder` the files of a part of a run go: of the first one directly into it."""
    return folder if part == 1 else folder / f"part-{part}"


class Crew:
    """Use as a context manager: entering starts the processes, leaving leaves none behind."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._stack = ExitStack()
        self._coordinator: Coordinator | None = None
        self._preparation: Preparation | None = None
        self._interrupts = 0

    def __enter__(self) -> "Crew":
        order, spec = self._order, self._order.spec
        captures = part_folder(order.folder / "capture", order.part)
        captures.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            board = Board(order.share.count)
            stack.callback(board.close)
            self._preparation = preparation = self._prepared_beside()
            plans = planner.worker_plans(
                spec,
                planner.schedules(spec),
                credentials=order.credentials,
                transport=spec.transport,
                cores=list(order.cores),
                run_id=order.run_id,
                host=host.facts(),
                capture_paths=[str(captures / f"worker-{worker:02}.arrow") for worker in order.share],
                board_fd=board.fd,
                share=order.share,
                scripts=None if preparation is None else preparation.scripts,
                calibration=order.calibration,
            )
            if spec.save_bodies:
                plans = self._with_bodies(plans)
            if preparation is not None:
                stack.enter_context(preparation)
            check = (lambda: None) if preparation is None else preparation.check
            self._coordinator = stack.enter_context(Coordinator(plans, board, check=check))
            self._stack = stack.pop_all()
        for _ in range(self._interrupts):
            self._coordinator.interrupt()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._coordinator = None
        self._stack.close()

    def stage(
        self, number: int, stage: StageSpec, made: Schedule, watch: Watcher, judge: Judge | None = None
    ) -> Outcome:
        """Run a stage, as Coordinator.stage."""
        assert self._coordinator is not None
        return self._coordinator.stage(self._plans(number, stage, made), watch, judge)

    def prepare(self, number: int, stage: StageSpec, made: Schedule) -> bool:
        """Make ready for a stage, as Coordinator.prepare."""
        assert self._coordinator is not None
        return self._coordinator.prepare(self._plans(number, stage, made))

    def start(self, number: int, start_ns: int, watch: Watcher, judge: Judge) -> Outcome:
        """Run a stage that is ready, as Coordinator.start; `judge` sees more than these workers, and gives it up."""
        assert self._coordinator is not None
        return self._coordinator.start(number, start_ns, watch, judge)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers; none where there are none any more."""
        return [] if self._coordinator is None else self._coordinator.pids

    def interrupt(self) -> None:
        """As Coordinator.interrupt; before the start, too."""
        self._interrupts += 1
        if self._coordinator is not None:
            self._coordinator.interrupt()

    @property
    def skipped_lines(self) -> int:
        """Lines of a data set that could not be used, so far."""
        return 0 if self._preparation is None else self._preparation.skipped_lines

    def _plans(self, number: int, stage: StageSpec, made: Schedule) -> list[StagePlan]:
        share, most = self._order.share, host.most_connections()
        return [planner.worker_stage(number, stage, made, worker, share.workers, most) for worker in share]

    def _with_bodies(self, plans: list[WorkerPlan]) -> list[WorkerPlan]:
        folder = part_folder(self._order.folder / "bodies", self._order.part)
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}") from None
        return [replace(plan, bodies_path=str(folder / f"worker-{plan.worker:02}.jsonl")) for plan in plans]

    def _prepared_beside(self) -> Preparation | None:
        """Where requests are prepared while the run goes on: beside the workers, if there is a core without one."""
        order, spec = self._order, self._order.spec
        if not recipes.has_script(spec):
            return None
        free = [cpu for cpu in host.usable_cores() if cpu not in order.cores] or host.usable_cores()
        return Preparation(
            recipes.recipe(spec, spec.model or "", order.calibration),
            planner.speaking(spec),
            planner.dealt(spec),
            order.share,
            cpus=free if any(core is not None for core in order.cores) else None,
            longest_tokens=recipes.longest_tokens(spec),
            environment=harmless_environment(planner.secrets(order.credentials, spec.proxy)),
        )
