"""An agent: it has a crew of workers on its machine, and does with it what the driver says over a link.

The driver says          the agent answers
  stage, spec              ready (with a digest of what is due), once its workers are; or ended
  start, start_ns          started, with how long that was ahead; reports, about twice a second; ended
  interrupt                sends no more and drains; the second time it cancels what is in flight
  cut, words               cancels what is in flight, for the reason that the driver gives
  finish                   finished: its workers are gone, and their captures whole

When the control link closes, the driver is gone: the agent cancels what is in flight, its workers write and leave.
"""

import contextlib
import hashlib
import os
import platform
import queue
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from analysis import partials
from loadgen import __version__, host, planner
from loadgen.clock import monotonic_ns, realtime_offset_ns
from loadgen.cluster import gather
from loadgen.cluster.link import Link, LinkError, accepted, listening
from loadgen.coordinator import StageNow
from loadgen.crew import Crew, Order
from loadgen.dialects.credentials import Credentials
from loadgen.errors import LoadgenError, RunError, UsageError
from loadgen.schedule.stage import Schedule, schedule
from loadgen.schema import SCHEMA_VERSION
from loadgen.spec import Spec, spec_of_json, targets, workload_file

REACH_S: Final = 10.0
"""For a connection to the endpoint."""

CLOCK_BYTES: Final = 8

MUST_AGREE: Final = ("loadgen", "schema", "python", "numpy")
"""Of an agent's facts: what has to be as on the driver's machine, or the same seed would not make the same plan."""


def facts(node: int) -> dict[str, Any]:
    """What the driver has to know of a machine before it plans; JSON."""
    return {
        "node": node,
        "pid": os.getpid(),
        "host": host.facts(),
        "machine": machine_id(),
        "realtime_offset_ns": realtime_offset_ns(),
        "loadgen": __version__,
        "schema": SCHEMA_VERSION,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": np.__version__,
        "most_connections": host.most_connections(),
        "ephemeral_ports": host.ephemeral_ports(),
    }


def machine_id() -> str:
    """The same for all processes on one machine, containers too; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Agent:
    """Takes links at `port` once it is made; `prepare` comes by another way, because it brings the key."""

    def __init__(self, node: int, token: bytes, address: str = "127.0.0.1", clock: Callable[[], int] = monotonic_ns):
        self.node = node
        self._token = token
        self._clock = clock
        self._listener = listening(address)
        self.port: int = self._listener.getsockname()[1]
        self._crew: Crew | None = None
        self._order: Order | None = None
        self._spec: Spec | None = None
        self._schedules: list[Schedule] = []
        self._starts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stage: threading.Thread | None = None
        self._cut = ""
        self._throttled_ns = 0
        self._leaving = threading.Lock()
        self._links: list[Link] = []
        self.gone = threading.Event()
        """The driver has closed the control link, or died; the workers are gone, too."""
        threading.Thread(target=self._accept, name="links", daemon=True).start()

    def prepare(self, order: Order, credentials: Sequence[Credentials]) -> dict[str, Any]:
        """Start the workers; {"folder", "digest", "niceness", "pids"}, or {"refused", "status"} where that cannot be."""
        try:
            folder = Path(tempfile.gettempdir()) / f"loadgen-{order.run_id}" / f"node-{self.node}"
            if order.part > 1:  # an earlier part may have left its captures there
                folder = folder.with_name(f"node-{self.node}-part-{order.part}")
            (folder / "capture").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._order = replace(order, folder=folder, credentials=credentials)
            _check_reachable(self._order)
            digest = _digest(order)
            self._spec, self._schedules = order.spec, planner.schedules(order.spec)
            niceness = _no_longer_nice()
            self._throttled_ns = host.throttled_ns()
            self._crew = Crew(self._order)
            self._crew.__enter__()
        except LoadgenError as error:
            self.remove()
            return {"refused": str(error), "status": error.exit_status}
        except OSError as error:
            self.remove()
            return {"refused": f"{error.filename or 'the system'}: {error.strerror}", "status": 1}
        return {"folder": str(folder), "digest": digest, "niceness": niceness, "pids": self._crew.pids}

    def close(self) -> None:
        """End the workers and all links."""
        self._leave()
        self._listener.close()
        for link in self._links:
            link.close()

    def remove(self) -> None:
        """Delete what the workers wrote here, and end them; it is elsewhere by now, or nothing."""
        self._leave()
        if self._order is not None:
            shutil.rmtree(self._order.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another node's is in there
                self._order.folder.parent.rmdir()

    def check_takes(self, uri: str) -> dict[str, Any]:
        """See that an object store takes what will be written here; {} or {"refused"}."""
        return _refusal_of(gather.check_takes, uri, self.node)

    def upload(self, uri: str) -> dict[str, Any]:
        """Copy what the workers wrote to an object store; {} or {"refused"}."""
        assert self._order is not None
        return _refusal_of(gather.upload, self._order.folder, uri, self.node)

    def heads(self) -> bytes:
        """What the captures here say of themselves."""
        assert self._order is not None
        return partials.heads(self._order.folder, self.node)

    def tallies(self, order: bytes) -> bytes:
        """The captures here, counted as the driver orders it."""
        assert self._order is not None
        return partials.tallies(self._order.folder, order, self.node, part=self._order.part)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), name="link", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            link, purpose = accepted(connection, self._token)
        except LinkError:
            return
        self._links.append(link)
        try:
            {"control": self._obey, "clock": self._tell_time, "files": self._give_files}[purpose](link)
        except LinkError:
            pass
        finally:
            link.close()
            if purpose == "control":
                self._leave()
                self.gone.set()

    def _tell_time(self, link: Link) -> None:
        while True:
            link.receive()
            link.send(self._clock().to_bytes(CLOCK_BYTES, "big", signed=True))

    def _give_files(self, link: Link) -> None:
        assert self._order is not None
        host.step_back()  # the workers go first; this thread alone gives way
        gather.serve(link, self._order.folder)

    def _obey(self, link: Link) -> None:
        while True:
            said = link.hear()
            do = said.get("do")
            if do == "stage":
                self._cut = ""
                self._add(said["stage"], said.get("spec"))
                self._stage = threading.Thread(target=self._run_stage, args=(link, said["stage"]), daemon=True)
                self._stage.start()
            elif do == "start":
                self._starts.put(said["start_ns"])
            elif do == "cut":
                self._cut = said["words"]
            elif do == "interrupt":
                self._interrupt()
            elif do == "finish":
                skipped = 0 if self._crew is None else self._crew.skipped_lines
                self._leave()
                held_ns = host.throttled_ns() - self._throttled_ns
                link.tell(finished={"throttled_ns": held_ns, "skipped_lines": skipped})

    def _add(self, number: int, told: dict[str, Any] | None) -> None:
        """A stage that was not there when the run was ordered comes with the spec that has it."""
        assert self._spec is not None
        if number < len(self._spec.stages):
            return
        assert told is not None
        stages = spec_of_json(told).stages
        for added in range(len(self._schedules), len(stages)):
            self._schedules.append(schedule(stages[added], added, self._spec.seed))
        self._spec = replace(self._spec, stages=stages)

    def _run_stage(self, link: Link, number: int) -> None:
        """A thread of its own, so that orders are heard meanwhile."""
        assert self._crew is not None
        assert self._spec is not None
        host.step_back()
        stage, made = self._spec.stages[number], self._schedules[number]
        with contextlib.suppress(LinkError):
            try:
                if not self._crew.prepare(number, stage, made):
                    link.tell(ended=number, reason="interrupted", words="")
                    return
                link.tell(ready=number, digest=_due_digest(made))
                start_ns = self._starts.get()
                if start_ns is None:  # interrupted before the start
                    link.tell(ended=number, reason="interrupted", words="")
                    return
                link.tell(started=number, ahead_ns=start_ns - self._clock())
                start_ns += monotonic_ns() - self._clock()  # 0, but where a test has the clock show something else

                def report(now: StageNow) -> None:
                    link.tell(report=asdict(now))

                outcome = self._crew.start(number, start_ns, report, lambda _: self._cut)
                link.tell(ended=number, reason=outcome.reason, words=outcome.words)
            except LoadgenError as error:
                link.tell(broken=str(error))
            except Exception as error:  # the driver has to hear of it, whatever it is
                link.tell(broken=f"{type(error).__name__}: {error}")

    def _interrupt(self) -> None:
        self._starts.put(None)
        if self._crew is not None:
            self._crew.interrupt()

    def _leave(self) -> None:
        with self._leaving:
            if self._crew is None:
                return
            if self._stage is not None and self._stage.is_alive():
                for _ in range(2):
                    self._interrupt()
                self._stage.join()
            self._crew.__exit__(None, None, None)
            self._crew = None


def _refusal_of(work: Callable[..., object], *given: object) -> dict[str, Any]:
    """Do it; {} or {"refused"}, for a failure would come through Ray as a trace."""
    try:
        work(*given)
    except RunError as error:
        return {"refused": str(error)}
    return {}


def _check_reachable(order: Order) -> None:
    """UsageError where an endpoint takes no connection from here; nothing is sent."""
    origins, _ = planner.ways(order.spec, order.credentials)
    for where in origins:
        if where.proxy is not None:
            continue
        try:
            socket.create_connection((where.host, where.port), REACH_S).close()
        except OSError as error:
            raise UsageError(
                f"--url: {where.host}:{where.port} takes no connection from {socket.gethostname()} "
                f"({error.strerror or error}); allowed is a URL that every node reaches"
            ) from None


def _digest(order: Order) -> str:
    """Of what requests are made of: the same on all machines, or their requests would repeat, or be others than planned."""
    digest = hashlib.sha256()
    for one in targets.each(order.spec):
        for before, after in planner.pool(one, one.model or "", order.calibration).bodies:
            digest.update(before + b"\0" + after)
    for path in (workload_file(order.spec), order.spec.lengths, order.spec.tokenizer):
        if path is not None and os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _due_digest(made: Schedule) -> str:
    """Of the times of a stage's arrivals; "" in a closed loop."""
    return "" if made.due_ns is None else hashlib.sha256(made.due_ns.tobytes()).hexdigest()


def _no_longer_nice() -> int:
    """Ray starts its processes so that they give way to all others; workers must not. The niceness that is left."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    return os.getpriority(os.PRIO_PROCESS, 0)
