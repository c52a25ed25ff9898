"""All nodes of a run: the place (loadgen.local_run.Place) where its workers are when it is not this machine alone.

The workers of all nodes are numbered through, node after node, and a plan is dealt to them as to those of one machine:
worker w of W has the arrivals w, w + W, ... and its part of the concurrency. So the load is the same whatever machines it
comes from, and nothing has to be said between nodes but when a stage starts, and that it is to stop.
"""

import contextlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from loadgen import host, planner
from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.cluster import agent, agreement, clock
from loadgen.cluster.gather import Gathering
from loadgen.cluster.link import LinkError
from loadgen.cluster.node import LONG_BURST, Node, together
from loadgen.coordinator import JUDGE_S, LOOK_S, TICK_S, Judge, Outcome, StageNow, Watcher, ended, hopeless_after
from loadgen.crew import Order
from loadgen.errors import LoadgenError, RunError, UsageError
from loadgen.plan import Share
from loadgen.schedule.stage import Schedule
from loadgen.spec import Spec, StageSpec

ON_NODE_LOSS: Final = ("stop", "continue")

DRIVER: Final = "driver"
NODES: Final = "nodes"
"""Of --collect; else it is the URI of an object store."""

START_LEAD_NS: Final = 250 * NS_PER_MS
"""From the order to start until the start, so that it has come to every node by then; and some round trips more."""

ATTEND_S: Final = 1.0
"""Between two estimates of a node's clock, and two looks at what its workers have written."""

READY_S: Final = 300.0
"""For all nodes to be ready for a stage: connections are opened, a data set is read."""

SILENT_S: Final = 30.0
"""A node that reports nothing of a stage for so long is lost. A worker that is silent its own coordinator reports first."""

LEAVE_S: Final = 30.0
"""For the workers of a node to write what they have and go, be their agent alive or dead."""


class Engine(Protocol):
    """Where agents come from. Calls may bring secrets: they go the engine's own way, never over a link."""

    def agents(self, token: bytes) -> list[tuple[str, int, dict[str, Any]]]:
        """Started, one a node: (host, port, agent.facts). UsageError where there are not as many nodes as asked for."""

    def call(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some agents, by node; gives what each returned, or the EngineError of one that is gone."""


class EngineError(Exception):
    """An agent could not be called: it, or its node, is gone."""


class Fleet:
    """The nodes. Use as a context manager, inside of which the engine stands."""

    def __init__(
        self, engine: Engine, token: bytes, *, on_node_loss: str = ON_NODE_LOSS[0], collect: str = DRIVER
    ) -> None:
        self.say: Callable[[str], object] = str
        self.skipped_lines = 0
        self.collect = collect
        self._engine = engine
        self._token = token
        self._on_node_loss = on_node_loss
        self._news = threading.Condition()
        self._interrupts = 0
        self._told_interrupts = 0
        self._said_lost: set[int] = set()
        self._throttled_ns = 0
        self._has_begun = False
        self._spec: Spec
        self.nodes: list[Node] = []

    def __enter__(self) -> "Fleet":
        for number, (address, port, facts) in enumerate(self._engine.agents(self._token)):
            self.nodes.append(Node(number, address, port, facts, self._token, self._news))
        agreement.check_versions(self.nodes)
        for node in self.nodes:
            try:
                node.connect()
                node.estimate(LONG_BURST)
            except LinkError as error:
                self.__exit__()
                raise RunError(f"{node.name} has an agent that this machine does not reach: {error}") from None
        try:
            agreement.check_clocks(self.nodes)
            self._check_store()
        except LoadgenError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        for node in self.nodes:
            node.close()

    def _remove(self) -> None:
        """Delete what is on the nodes, where it has come to its place, or where nothing was measured at all."""
        done = [
            node
            for node in self.nodes
            if node.folder != Path()  # it was ready once
            and (
                not self._has_begun
                or (self.collect != NODES and not node.ungathered and (node.finished or node.is_gone))
            )
        ]
        if there := {node.number: () for node in done if not node.is_gone}:
            self._engine.call("remove", there)
        for node in done:
            if node.is_gone and self.collect == DRIVER and self._is_here(node):
                shutil.rmtree(node.folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another node's is in there
                    node.folder.parent.rmdir()

    def _is_here(self, node: Node) -> bool:
        return bool(node.facts["machine"]) and node.facts["machine"] == agent.machine_id()

    @property
    def counts_there(self) -> bool:
        """Whether captures stay on the nodes, or go from there to a store."""
        return self.collect != DRIVER

    def heads(self) -> dict[int, bytes]:
        """What the captures of the nodes that are left say of themselves."""
        return self._asked("heads")

    def tallies(self, order: bytes) -> dict[int, bytes]:
        """Their captures, counted there as `order` says."""
        return self._asked("tallies", order)

    def _asked(self, method: str, *given: Any) -> dict[int, bytes]:
        there = {node.number: given for node in self.nodes if not node.is_gone}
        answers = self._engine.call(method, there)
        for number, answer in answers.items():
            if isinstance(answer, EngineError):
                self.nodes[number].lose(f"its captures could not be counted: {answer}")
        return {number: answer for number, answer in answers.items() if not isinstance(answer, EngineError)}

    @property
    def workers(self) -> int:
        """Of all nodes."""
        return sum(node.share.count for node in self.nodes)

    @property
    def most_connections(self) -> int:
        """How many connections any worker can hold."""
        return min(int(node.facts["most_connections"]) for node in self.nodes)

    @property
    def cores(self) -> tuple[int, ...]:
        """Of this machine, where it is a node, too."""
        mine = [node.cores for node in self.nodes if self._is_here(node)]
        return tuple(core for cores in mine for core in cores if core is not None)

    def settle(self, spec: Spec, planned: Sequence[Schedule]) -> None:
        """Give every node its workers, their cores and their numbers. UsageError where the wish cannot be met."""
        chosen = [agreement.cores_of(node, self.nodes, spec) for node in self.nodes]
        places = [planner.most_in_flight(spec, planned), *(stage.max_in_flight for stage in spec.stages)]
        limit = min((place for place in places if place is not None), default=None)
        if limit is not None and limit < len(self.nodes):
            raise UsageError(
                f"--nodes: {len(self.nodes)} nodes have more workers than the {limit} that may be in flight; "
                "allowed is at least one each"
            )
        while limit is not None and sum(map(len, chosen)) > limit:  # nobody without work
            max(chosen, key=len).pop()
        workers, first = sum(map(len, chosen)), 0
        for node, cores in zip(self.nodes, chosen, strict=True):
            node.cores, node.share = tuple(cores), Share(first, len(cores), workers)
            first += len(cores)
        self.check(planner.most_in_flight(spec, planned))

    def check(self, in_flight: int | None) -> None:
        """UsageError where a worker could not hold its share of the connections."""
        if in_flight is not None and planner.share(in_flight, 0, self.workers) > self.most_connections:
            node = min(self.nodes, key=lambda one: int(one.facts["most_connections"]))
            raise UsageError(
                f"--concurrency, --max-in-flight: {in_flight} on {self.workers} workers needs "
                f"{planner.share(in_flight, 0, self.workers) + host.SPARE_DESCRIPTORS} descriptors a process, the limit of "
                f"{node.name} is {self.most_connections + host.SPARE_DESCRIPTORS}; raise it (ulimit -Hn), or give more nodes"
            )

    def facts(self, part: int) -> dict[str, Any]:
        """What run.json says of them."""
        workers = [
            {"worker": worker, "core": core, "node": node.number}
            for node in self.nodes
            for worker, core in zip(node.share, node.cores, strict=True)
        ]
        nodes = [{"part": part, **node.told(), "captures": self._kept(node)} for node in self.nodes]
        return {"workers": workers, "nodes": nodes}

    def throttled_ns(self) -> int:
        """Of all nodes that lived to tell."""
        return self._throttled_ns

    @contextmanager
    def started(self, order: Order) -> Iterator[None]:
        """Their workers, started; leaving ends them, and brings their captures to where they are wanted."""
        for node in self.nodes:
            node.gathering = Gathering(order.folder, node.number)
        self._prepare(order)
        for node in self.nodes:  # that took its time
            self._estimate(node)
        self._has_begun = True
        over = threading.Event()
        attending = [
            threading.Thread(target=self._attend, args=(node, over), name="attend", daemon=True) for node in self.nodes
        ]
        for thread in attending:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in attending:
                thread.join()
            self._finish()

    def stage(
        self, number: int, stage: StageSpec, made: Schedule, watch: Watcher, judge: Judge | None = None
    ) -> Outcome:
        """Run a stage on all nodes that are left. RunError where none is, or where a loss is to stop the run."""
        told = None
        if number >= len(self._spec.stages):  # it was added to the run since
            self._spec = replace(self._spec, stages=(*self._spec.stages, stage))
            told = self._spec.to_json()
        for node in self.nodes:
            node.begin_stage()
            node.order("stage", stage=number, spec=told)
        self._until(lambda: all(node.ready == number or node.outcome for node in self._left()), READY_S)
        if self._interrupts or any(node.outcome for node in self._left()):
            self._until(lambda: all(node.outcome for node in self._left()), LEAVE_S)
            return Outcome("interrupted")
        self._check_same_due(number)
        start_ns = self._start(number)
        watch(self._now(number, start_ns))
        slots = 0 if stage.is_open_loop else made.most_in_flight
        hopeless = cut = ""
        next_tick_s = next_judgement_s = time.monotonic()
        while not all(node.outcome for node in self._left()):
            self._pause(LOOK_S)
            self._check_heard(start_ns)
            may_end_early = not (hopeless or cut or self._interrupts)
            now_s = time.monotonic()
            if now_s < min(next_tick_s, next_judgement_s):
                continue
            now = self._now(number, start_ns)
            if may_end_early and now.shows_only_failures(hopeless_after(slots)):
                hopeless = now.failure
                self._order("cut", words=hopeless)
            if now_s >= next_tick_s:
                next_tick_s += TICK_S
                watch(now)
            if judge is not None and may_end_early and not hopeless and now_s >= next_judgement_s:
                next_judgement_s += JUDGE_S
                if cut := judge(now):
                    self._order("cut", words=cut)
        last = self._now(number, start_ns)
        watch(last)
        self._bring()
        return ended(last, cut=cut, hopeless=hopeless, interrupted=self._interrupts > 0)

    def interrupt(self) -> None:
        """From a signal handler, too: the nodes are told at the next look."""
        self._interrupts += 1

    # --- before the start ---

    def _check_store(self) -> None:
        """Every node may write into the store: better known now than when the load is over."""
        if self.collect in (DRIVER, NODES):
            return
        for words in self._in_store("check_takes").values():
            raise UsageError(
                f"{words}; allowed is a store that every node can write to, with the credentials that it has"
            )

    def _in_store(self, method: str) -> dict[int, str]:
        """Have all nodes do something with the store; the words of those that could not."""
        there: dict[int, tuple[Any, ...]] = {node.number: (self.collect,) for node in self.nodes if not node.is_gone}
        answers = self._engine.call(method, there)
        words = {
            number: str(answer) if isinstance(answer, EngineError) else answer.get("refused", "")
            for number, answer in answers.items()
        }
        return {number: said for number, said in words.items() if said}

    def _prepare(self, order: Order) -> None:
        """Have every node start its workers. UsageError or RunError, in its own words, where one cannot."""
        self._spec = order.spec
        told = self._engine.call(
            "prepare",
            # The keys are an argument of its own: Ray hands small ones on directly, and puts large ones into its store.
            {
                node.number: (
                    replace(order, credentials=(), folder=Path(), share=node.share, cores=node.cores),
                    order.credentials,
                )
                for node in self.nodes
            },
        )
        for node in self.nodes:
            answer = told[node.number]
            if not isinstance(answer, EngineError) and "folder" in answer:
                node.folder, node.pids = Path(answer["folder"]), answer["pids"]
        for node in self.nodes:
            answer = told[node.number]
            if isinstance(answer, EngineError):
                raise RunError(f"{node.name} was lost before the start: {answer}")
            if "refused" in answer:
                words = f"{answer['refused']} ({node.name})"
                raise UsageError(words) if answer["status"] == UsageError.exit_status else RunError(words)
            if answer["niceness"] > 0:
                self.say(
                    f"{node.name}: its workers give way to other processes (niceness {answer['niceness']}), and this user "
                    "may not change that; start Ray there with RAY_worker_niceness=0"
                )
        agreement.check_requests(self.nodes, [told[node.number]["digest"] for node in self.nodes])
        for machine, count in Counter(node.facts["machine"] for node in self.nodes).items():
            if machine and count > 1 and any(None in node.cores for node in self.nodes):
                self.say(f"{count} nodes are one machine with fewer cores: their workers are not bound to any")

    def _check_same_due(self, number: int) -> None:
        """The same seed has made the same arrivals everywhere."""
        if len({node.due_digest for node in self._left()}) > 1:
            self._order("interrupt")
            raise RunError(
                f"the nodes do not agree on the arrivals of stage {number + 1}: their processors or libraries differ"
            )

    # --- a stage ---

    def _left(self) -> list[Node]:
        return [node for node in self.nodes if node.is_alive]

    def _order(self, do: str, **more: Any) -> None:
        for node in self._left():
            node.order(do, **more)

    def _start(self, number: int) -> int:
        """The start, on this machine's clock; every node is told it on its own."""
        slowest_ns = max(node.bounds[-1].uncertainty_ns for node in self._left())
        start_ns = monotonic_ns() + START_LEAD_NS + 8 * slowest_ns
        for node in self._left():
            node.order("start", start_ns=clock.there_ns(node.bounds[-1], start_ns))
        self._until(lambda: all(node.ahead_ns is not None or node.outcome for node in self._left()), SILENT_S)
        for node in self._left():
            if node.ahead_ns is not None and node.ahead_ns < 0:
                # What was due by then is sent late, and its lateness is in the capture.
                self.say(
                    f"{node.name} heard of the start of stage {number + 1} {-node.ahead_ns / NS_PER_MS:.0f} ms after it: "
                    "its first requests are late"
                )
        return start_ns

    def _now(self, number: int, start_ns: int) -> StageNow:
        """Of a node that was lost the last that it reported, without what was in flight there."""
        nows = [
            node.latest if node.is_alive else replace(node.latest, in_flight=0)
            for node in self.nodes
            if node.latest is not None and node.latest.stage == number
        ]
        return together(nows, number, start_ns, self.workers)

    def _check_heard(self, start_ns: int) -> None:
        """A node that says nothing any more is lost."""
        silent_ns = round(SILENT_S * NS_PER_S)
        now_ns = monotonic_ns()
        for node in self._left():
            if node.outcome is None and now_ns - max(node.heard_ns, start_ns) > silent_ns:
                node.lose(f"it has been silent for {SILENT_S:g} s")

    def _until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Wait for news of the nodes; who does not come by the deadline is lost."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            self._pause(LOOK_S)
            if time.monotonic() > deadline_s:
                for node in self._left():
                    if node.outcome is None:
                        node.lose(f"it did not answer within {timeout_s:g} s")

    def _pause(self, longest_s: float) -> None:
        """A moment, or until there is news; then whatever has to be passed on is."""
        with self._news:
            self._news.wait(longest_s)
        while self._told_interrupts < self._interrupts:
            self._told_interrupts += 1
            self._order("interrupt")
        self._look_for_losses()

    def _look_for_losses(self) -> None:
        fresh = [node for node in self.nodes if node.lost and node.number not in self._said_lost]
        for node in fresh:
            self._said_lost.add(node.number)
            self.say(f"{node.name} is lost, and with it {node.share.count / self.workers:.0%} of the load: {node.lost}")
        left = self._left()
        if fresh and (not left or self._on_node_loss == "stop"):
            for _ in range(2):
                self._order("interrupt")
            node = fresh[0]
            more = "" if not left else "; --on-node-loss continue would have gone on with the others"
            raise RunError(f"{node.name} was lost: {node.lost}{more}")

    # --- beside it, and after it ---

    def _attend(self, node: Node, over: threading.Event) -> None:
        """Keep a node's clock known, and what it has captured here."""
        while not over.wait(ATTEND_S) and not node.is_gone:
            try:
                node.estimate()
                if self.collect == DRIVER:
                    node.gather()
            except LinkError as error:
                node.lose(str(error))
            except RunError as error:  # this machine's disk is full: the captures stay on the node
                node.ungathered = str(error)
                self.say(str(error))
                return

    def _estimate(self, node: Node) -> None:
        try:
            if not node.is_gone:
                node.estimate(LONG_BURST)
        except LinkError as error:
            node.lose(str(error))

    def _bring(self) -> None:
        """All that the stage has left is here, or it is said why not."""
        if self.collect != DRIVER:
            return
        for node in self.nodes:
            self._gather(node)

    def _gather(self, node: Node) -> None:
        """What a node's workers have written; of one that is gone, if it was on this machine."""
        assert node.gathering is not None
        try:
            if not node.is_gone:
                node.gather()
            elif self._is_here(node):
                node.gathering.beside(node.folder)
        except LinkError as error:
            node.lose(str(error))
        except RunError as error:
            node.ungathered = str(error)
            self.say(str(error))

    def _finish(self) -> None:
        """The workers end; their captures come to where they are wanted."""
        for node in self.nodes:
            node.order("finish")
        deadline_s = time.monotonic() + LEAVE_S
        while any(node.finished is None and not node.is_gone for node in self.nodes) and time.monotonic() < deadline_s:
            with self._news:
                self._news.wait(LOOK_S)
        for node in self.nodes:
            if node.finished is not None:
                self._throttled_ns += node.finished["throttled_ns"]
                self.skipped_lines = max(self.skipped_lines, node.finished["skipped_lines"])
            self._estimate(node)
        # Of a dead agent the workers leave, too, as soon as they see its pipe closed: what they write is to be gathered.
        here = [pid for node in self.nodes if node.is_gone and self._is_here(node) for pid in node.pids]
        while not all(map(host.has_ended, here)) and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
        if self.collect == DRIVER:
            self._bring()
        elif self.collect != NODES:
            self._store()

    def _store(self) -> None:
        for number, words in self._in_store("upload").items():
            self.nodes[number].ungathered = words
            self.say(words)

    def _kept(self, node: Node) -> str:
        """Where a node's captures are, or will be."""
        if self.collect == NODES or node.ungathered:
            return f"{node.facts['host']['name']}:{node.folder}"
        return self.collect
