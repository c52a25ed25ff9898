"""When tokens come: an engine with continuous batching, without sockets and without a clock of its own.

The model
    A sequence waits in a FIFO queue until one of `max_running` slots is free. It holds the slot from its admission to
    its last token; `running` counts the slots held.

    Prefill is one serial resource, apart from decode (it delays other prefills, never a tick):

        ready = max(admission, the prefill before it is through) + prompt_tokens / prefill_tokens_per_s + ttft

    where the tokens of a prefix that the cache holds (`prefix_cache`) do not count.

    Lock step: one step follows the other as long as a sequence is running, and lasts

        step = (step_ns + step_per_running_ns x running) x jitter       running: counted when the step begins

    At its end, the tick, every sequence that is ready gets one event of `tokens_per_event` tokens (the last one may
    hold fewer), its first event included; with an `acceptance` below 1 it gets one token, and each of the further ones
    as long as none before it was refused, which is what speculative decoding does with its draft. Slots that come free
    are given to the queue at the tick. An idle engine begins with a tick at the moment that its first sequence is ready,
    so that a lone request's first token comes exactly prefill + ttft after it was admitted.

    Independent: each sequence gets its first event when it is ready and each further one a step of its own later,
    with the same formula, counted when the gap begins.

Time
    Ticks lie on absolute times: a tick handled late does not move the next one. A server that is a whole step late is
    no longer keeping up; then the grid starts anew (`slips` counts it) rather than firing two ticks at once, which
    would be a burst that no engine makes.

What saturates it stands in `capacity`.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from loadgen.clock import NS_PER_S
from loadgen.simulator.prefix_cache import PrefixCache

# Below this the timer alone would eat the core that the engine runs on.
LEAST_STEP_NS: Final = 10_000

JITTERS: Final = {
    "none": "always the mean",
    "uniform": "uniform:SHARE, 0..1: evenly within the mean -/+ SHARE of it",
    "normal": "normal:SHARE, 0..0.33: deviation SHARE of the mean, cut off at zero",
    "lognormal": "lognormal:SIGMA, 0..3: SIGMA of the logarithm; the mean stays",
    "exponential": "memoryless gaps",
}
_MOST: Final = {"uniform": 1.0, "normal": 0.33, "lognormal": 3.0}


@dataclass(frozen=True, slots=True)
class Jitter:
    """A distribution of step lengths around their mean; `factor` draws with mean 1."""

    kind: str = "none"
    width: float = 0.0

    def factor(self, draws: random.Random) -> float:
        match self.kind:
            case "uniform":
                return draws.uniform(1 - self.width, 1 + self.width)
            case "normal":
                return max(0.0, draws.gauss(1.0, self.width))
            case "lognormal":
                return math.exp(draws.gauss(-self.width * self.width / 2, self.width))
            case "exponential":
                return draws.expovariate(1.0)
        return 1.0


def jitter(text: str) -> Jitter:
    """Read `none`, `exponential`, `uniform:SHARE`, `normal:SHARE` or `lognormal:SIGMA`; ValueError otherwise."""
    kind, _, width = text.partition(":")
    if kind not in JITTERS:
        raise ValueError(f"{text!r} is no distribution; allowed are {', '.join(JITTERS)}")
    if kind not in _MOST:
        if width:
            raise ValueError(f"{text!r}: {kind} takes no number")
        return Jitter(kind)
    try:
        number = float(width)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MOST[kind]:
        raise ValueError(
            f"{text!r}: {kind} wants a number from 0 to {_MOST[kind]:g} behind the colon, as in {kind}:0.1"
        )
    return Jitter(kind, number)


@dataclass(frozen=True, slots=True)
class EngineParameters:
    """`prefill_tokens_per_s` 0 means that prefill takes no time; `max_queued` None that the queue has no end;
    `prefix_cache_tokens` 0 that no prompt is remembered. `acceptance` is the chance of each drafted token."""

    ttft_ns: int = 0
    prefill_tokens_per_s: int = 0
    step_ns: int = 20_000_000
    step_per_running_ns: int = 0
    max_running: int = 256
    max_queued: int | None = None
    tokens_per_event: int = 1
    lock_step: bool = True
    jitter: Jitter = Jitter()
    acceptance: float = 1.0
    prefix_cache_tokens: int = 0

    @property
    def mean_tokens_per_step(self) -> float:
        """Of a step that ends no answer: 1 + a + a^2 + ... of the draft."""
        if self.acceptance == 1:
            return self.tokens_per_event
        return (1 - self.acceptance**self.tokens_per_event) / (1 - self.acceptance)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most an engine gives in the long run, and which part is full then: "slots" or "prefill"."""

    requests_per_s: float
    output_tokens_per_s: float
    input_tokens_per_s: float
    limit: str


def capacity(p: EngineParameters, input_tokens: int, output_tokens: int) -> Capacity:
    """The saturation point for requests of `input_tokens` and `output_tokens` (at least 1) each.

    With S = step + step_per_running x max_running, E = ceil(output / mean tokens of a step) events and
    H = input / prefill_tokens_per_s + ttft, a slot serves one request in

        lock step:    max(1, ceil(H / S)) + E - 1 steps of S   (admitted on a tick, first event on a later one)
        independent:  H + (E - 1) x S

    and the engine max_running in that time, unless prefill is slower: prefill_tokens_per_s / input. It is exact where
    requests do not wait for each other's prefill, lock step has no jitter and every drafted token is accepted, otherwise
    the bound that is neared from below. Prompts are taken to be new to the prefix cache.
    """
    step_ns = p.step_ns + p.step_per_running_ns * p.max_running
    events = math.ceil(output_tokens / p.mean_tokens_per_step)
    hold_ns = p.ttft_ns + _prefill_ns(p, input_tokens)
    first_ns = max(1, -(-hold_ns // step_ns)) * step_ns if p.lock_step else hold_ns
    turn_ns = first_ns + (events - 1) * step_ns
    by_slots = p.max_running * NS_PER_S / turn_ns if turn_ns else math.inf
    by_prefill = p.prefill_tokens_per_s / input_tokens if p.prefill_tokens_per_s and input_tokens else math.inf
    per_s = min(by_slots, by_prefill)
    limit = "slots" if by_slots <= by_prefill else "prefill"
    return Capacity(per_s, per_s * output_tokens, per_s * input_tokens, limit)


def _prefill_ns(p: EngineParameters, prompt_tokens: int) -> int:
    return prompt_tokens * NS_PER_S // p.prefill_tokens_per_s if p.prefill_tokens_per_s else 0


class State(Enum):
    """The life of a sequence: NEW -> QUEUED -> PREFILL -> DECODE -> ENDED, and from anywhere to ENDED by `cancel`."""

    NEW = "new"
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    ENDED = "ended"


class Sequence:
    """One request as the engine sees it; the server hangs its sockets on a subclass."""

    __slots__ = (
        "admitted_ns",
        "arrived_ns",
        "blocks",
        "cached_tokens",
        "output_tokens",
        "prompt_tokens",
        "ready_ns",
        "state",
        "tokens_done",
    )

    def __init__(self, prompt_tokens: int, output_tokens: int, blocks: list[int] | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks  # of the prompt; None where the prefix cache has nothing to do with it
        self.cached_tokens = 0
        self.tokens_done = 0
        self.state = State.NEW
        self.arrived_ns = 0
        self.admitted_ns: int | None = None
        self.ready_ns = 0


S = TypeVar("S", bound=Sequence)


class QueueFull(Exception):
    """`submit` refused: `max_queued` sequences wait already."""


class Engine(Generic[S]):
    """Feed it with `submit` and `cancel`; call `advance` at (or after) `next_due_ns` and send what it returns.

    Every `now_ns` is CLOCK_MONOTONIC, or any clock that never runs backwards. The same calls with the same seed give
    the same times.
    """

    def __init__(self, parameters: EngineParameters, seed: int) -> None:
        self.parameters = parameters
        self._draws = random.Random(f"engine {seed}")
        self.running = 0
        self.queued = 0
        self.slips = 0
        self.prefix_cache = PrefixCache(parameters.prefix_cache_tokens) if parameters.prefix_cache_tokens else None
        # A stream of draws of its own: the times stay as they are when a draft is refused.
        self._draft_draws = random.Random(f"draft {seed}")
        self._queue: deque[S] = deque()
        self._prefill_free_ns = 0
        # Lock step: in the order of ready_ns, which is the order of admission.
        self._prefilling: deque[S] = deque()
        self._decoding: list[S] = []
        self._cancelled = False
        self._tick_ns: int | None = None
        # Independent: (due, order of entry, sequence); the order keeps the comparison from reaching the sequence.
        # Equal steps fall due in the order in which they began: those wait in a line, which costs a tenth of the heap.
        # What would break the order of the line goes to the heap.
        self._line: deque[tuple[int, int, S]] = deque()
        self._heap: list[tuple[int, int, S]] = []
        self._entries = 0

    @property
    def next_due_ns(self) -> int | None:
        """When `advance` has something to do next; None while nothing runs. Ask again after every other call."""
        if self.parameters.lock_step:
            return self._tick_ns
        line, heap = self._line, self._heap
        if line and heap:
            return min(line[0][0], heap[0][0])
        return line[0][0] if line else heap[0][0] if heap else None

    def submit(self, sequence: S, now_ns: int) -> None:
        """Take a sequence in: it is admitted at once or queued. QueueFull when the queue has no room."""
        sequence.arrived_ns = now_ns
        if (
            self.running < self.parameters.max_running
        ):  # then nobody waits: a slot that comes free is given away at once
            self._admit(sequence, now_ns)
            return
        if self.parameters.max_queued is not None and self.queued >= self.parameters.max_queued:
            raise QueueFull
        sequence.state = State.QUEUED
        self.queued += 1
        self._queue.append(sequence)

    def cancel(self, sequence: S, now_ns: int) -> None:
        """Take a sequence out, wherever it stands; its slot is free at once, the prefill it used is spent."""
        was, sequence.state = sequence.state, State.ENDED
        if was is State.QUEUED:
            self.queued -= 1
        elif was in (State.PREFILL, State.DECODE):
            self.running -= 1
            self._cancelled = True
            self._fill_slots(now_ns)
            if not self.running:
                self._tick_ns = None

    def advance(self, now_ns: int) -> Items[S]:
        """The sequences that get an event by now, in the order of sending; their `tokens_done` is moved on already.

        A sequence whose `state` is ENDED got its last event. In lock step one call is at most one tick.
        """
        return self._tick(now_ns) if self.parameters.lock_step else self._due(now_ns)

    def _tick(self, now_ns: int) -> list[S]:
        tick_ns = self._tick_ns
        if tick_ns is None or tick_ns > now_ns:
            return []
        served = self._decoding
        if self._cancelled:
            served = [sequence for sequence in served if sequence.state is State.DECODE]
            self._cancelled = False
        prefilling = self._prefilling
        while prefilling and prefilling[0].ready_ns <= tick_ns:
            sequence = prefilling.popleft()
            if sequence.state is State.PREFILL:
                sequence.state = State.DECODE
                served.append(sequence)
        tokens, finished = self.parameters.tokens_per_event, 0
        certain = self.parameters.acceptance == 1
        for sequence in served:
            done = sequence.tokens_done + (tokens if certain else self._accepted())
            if done >= sequence.output_tokens:
                done = sequence.output_tokens
                sequence.state = State.ENDED
                finished += 1
            sequence.tokens_done = done
        # Always a list of its own: the caller iterates over `served` while it may submit and cancel.
        self._decoding = [s for s in served if s.state is State.DECODE] if finished else served.copy()
        self.running -= finished
        self._fill_slots(tick_ns)
        self._tick_ns = self._after(tick_ns, now_ns) if self.running else None
        return served

    def _due(self, now_ns: int) -> list[S]:
        line, heap, tokens = self._line, self._heap, self.parameters.tokens_per_event
        certain = self.parameters.acceptance == 1
        served: list[S] = []
        while True:
            from_line = bool(line) and not (heap and heap[0] < line[0])
            if not from_line and not heap:
                return served
            due_ns, _, sequence = line[0] if from_line else heap[0]
            if due_ns > now_ns:
                return served
            if from_line:
                line.popleft()
            else:
                heapq.heappop(heap)
            if sequence.state is State.ENDED:  # cancelled
                continue
            served.append(sequence)
            done = sequence.tokens_done + (tokens if certain else self._accepted())
            if done < sequence.output_tokens:
                sequence.state = State.DECODE
                sequence.tokens_done = done
                self._enter(self._after(due_ns, now_ns), sequence)
            else:
                sequence.state = State.ENDED
                sequence.tokens_done = sequence.output_tokens
                self.running -= 1
                self._fill_slots(due_ns)

    def _enter(self, due_ns: int, sequence: S) -> None:
        self._entries += 1
        if self._line and due_ns < self._line[-1][0]:
            heapq.heappush(self._heap, (due_ns, self._entries, sequence))
        else:
            self._line.append((due_ns, self._entries, sequence))

    def _after(self, due_ns: int, now_ns: int) -> int:
        p = self.parameters
        step_ns = p.step_ns + p.step_per_running_ns * self.running
        if p.jitter.kind != "none":
            step_ns = max(LEAST_STEP_NS, round(step_ns * p.jitter.factor(self._draws)))
        if due_ns + step_ns >= now_ns:
            return due_ns + step_ns
        self.slips += 1
        return now_ns + step_ns

    def _accepted(self) -> int:
        """The tokens of a step: one that is sure, and those of the draft before the first that is refused."""
        count, draws, acceptance = 1, self._draft_draws, self.parameters.acceptance
        while count < self.parameters.tokens_per_event and draws.random() < acceptance:
            count += 1
        return count

    def _fill_slots(self, now_ns: int) -> None:
        while self._queue and self.running < self.parameters.max_running:
            sequence = self._queue.popleft()
            if sequence.state is State.QUEUED:
                self.queued -= 1
                self._admit(sequence, now_ns)

    def _admit(self, sequence: S, now_ns: int) -> None:
        # A tick that is handled late may find sequences that came after it: none is admitted before it arrived.
        now_ns = max(now_ns, sequence.arrived_ns)
        sequence.state = State.PREFILL
        sequence.admitted_ns = now_ns
        if self.prefix_cache is not None and sequence.blocks is not None:
            sequence.cached_tokens = self.prefix_cache.take(sequence.blocks, sequence.prompt_tokens)
        new_tokens = sequence.prompt_tokens - sequence.cached_tokens
        through_ns = max(now_ns, self._prefill_free_ns) + _prefill_ns(self.parameters, new_tokens)
        self._prefill_free_ns = through_ns
        sequence.ready_ns = through_ns + self.parameters.ttft_ns
        self.running += 1
        if not self.parameters.lock_step:
            # A first event is no step; in the line it would send all that are due before it to the heap.
            self._entries += 1
            heapq.heappush(self._heap, (sequence.ready_ns, self._entries, sequence))
            return
        self._prefilling.append(sequence)
        if self.running == 1 and self._tick_ns is None:
            self._tick_ns = sequence.ready_ns
