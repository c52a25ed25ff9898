"""Prepared units, as the preparer lays them into this worker's ring (loadgen.preparer), in the order of their beginning.

A record is marshalled: (number, due_ns, session, turn, target, requests), each request (wanted input tokens, wanted output
tokens, body, ask): the body as it is sent, or, where the turn quotes what the model will have answered, the ask that it is
made of.
"""

import marshal
from collections.abc import Sequence
from typing import Final

import orjson

from loadgen.clock import NS_PER_MS
from loadgen.dialects.answer import Ask
from loadgen.plan import ClosedLoad, OpenLoad, ScriptPlan
from loadgen.ring import Ring
from loadgen.worker.requests import RequestMaker, whole

POLL_NS: Final = NS_PER_MS // 2
"""Between two looks into a ring that was empty."""

LEAST_READY_BYTES: Final = 1 << 18
"""What waits in the ring when a stage begins, or all there is."""


class Scripted:
    """One unit: its requests, and where it stands in a trace."""

    __slots__ = ("due_ns", "number", "requests", "session", "target", "turn")

    def __init__(self, record: bytes) -> None:
        self.number: int
        self.due_ns: int | None
        self.session: int | None
        self.turn: int
        self.requests: tuple[tuple[int | None, int | None, bytes, bytes], ...]
        self.target: int
        self.number, self.due_ns, self.session, self.turn, self.target, self.requests = marshal.loads(record)

    @property
    def size_bytes(self) -> int:
        """What it holds while it waits."""
        return sum(len(body) + len(ask) for _, _, body, ask in self.requests)

    def request(self, head: bytes, maker: RequestMaker, turn: int, answers: Sequence[str] = ()) -> bytes:
        """Head and body of a request; `answers` are those to the turns before it."""
        body = self.requests[turn][2]
        if not body:
            body = orjson.dumps(maker.body(self._ask(turn, answers)))
        return whole(head, body)

    def _ask(self, turn: int, answers: Sequence[str]) -> Ask:
        asks = [orjson.loads(ask) for _, _, _, ask in self.requests[: turn + 1]]
        history = tuple((ask["prompt"], answer) for ask, answer in zip(asks, answers, strict=False))
        return Ask(**asks[turn] | {"history": history, **{name: tuple(asks[turn][name]) for name in _TUPLES}})


_TUPLES: Final = ("token_ids", "images", "shown", "messages", "tools")


class Script:
    """The units of the stage that runs, one after the other."""

    def __init__(self, plan: ScriptPlan) -> None:
        self._ring = Ring(plan.ring_bytes, plan.ring_fd)
        self._stage = -1
        self.waited = 0
        """Requests that were not there when they were due, or a slot was free for them; all stages."""

    def open_stage(self, stage: int, load: ClosedLoad | OpenLoad) -> None:
        """Ask for the units of a stage."""
        self._stage = stage
        self._ring.want(stage, load.all_slots if isinstance(load, ClosedLoad) else 0)

    @property
    def is_ready(self) -> bool:
        """Whether enough waits for the stage to begin."""
        self._ring.pass_over(self._stage)
        return self._ring.is_ready(self._stage, LEAST_READY_BYTES)

    @property
    def is_over(self) -> bool:
        """Whether all units of the stage have been taken."""
        return self._ring.is_over(self._stage)

    def take(self) -> Scripted | None:
        """The next unit; None where it is not there yet, or there is none."""
        record = self._ring.take(self._stage)
        return None if record is None else Scripted(record)

    def close(self) -> None:
        """Let go of the ring."""
        self._ring.close()
