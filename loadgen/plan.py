"""The plan: values that travel to the workers before the start. No behaviour, and nothing a worker could leak by printing.

A worker gets one WorkerPlan, then a StagePlan for each stage as its turn comes, and never hears of the spec, the prompts'
making or the other workers.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loadgen.dealing import Deal
from loadgen.distribution import Distribution
from loadgen.wording import Wording


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    tls: bool
    path: str
    """Path and query of the request line; {model} in it stands for the model's name as long as that is not known."""
    tls_ca: str | None = None
    """File of certificates to trust instead of the system's."""
    insecure: bool = False
    """Take any certificate."""
    proxy: str | None = field(default=None, repr=False)
    """URL of an HTTP proxy (aiohttp transport only); may hold a password."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may take, ns; one of them exceeded ends the request with its own error class."""

    connect_ns: int
    first_byte_ns: int
    idle_ns: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class ClosedLoad:
    """Slots that are kept busy: this worker's part of them."""

    levels: tuple[tuple[int, int], ...]
    """(ns since the start, this worker's slots from then on), ascending; the first at 0."""
    slots: int
    """The most that this worker has at any time."""
    all_slots: int
    """The most of all workers together; see worker.closed_loop for how units are dealt to them."""
    units: int | None
    """This worker's share of the units to begin; None when the stage is bounded by its duration."""


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """Arrivals at their own times: this worker's part of them. Its arrival i is number worker + i * workers of the stage."""

    due_ns: "array[int] | None" = field(repr=False)  # not subscriptable at run time before Python 3.12
    """ns since the start, ascending; None: each unit of the script brings its own."""
    connections: int
    """To be open before the start."""
    spare: int
    """Open connections to be held ready for the next arrivals, so that none has to wait for a connect."""
    max_in_flight: int
    """This worker's places: an arrival that finds none waits."""
    late_drop_ns: int | None
    """An arrival that has waited so long is not sent; None: it is sent however late."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One level of load, as one worker has to make it. A unit is a request, or a session of several turns."""

    stage: int
    load: ClosedLoad | OpenLoad
    warmup_ns: int
    """From the start to the measured window: ramp-up and warm-up."""
    warmup_requests: int
    """The window opens when so many of this worker's requests have ended; 0: at its time."""
    duration_ns: int | None
    """Time of sending in the window; None when the stage is bounded by its units."""
    drain_ns: int
    """How long requests in flight may go on after the last send."""


@dataclass(frozen=True, slots=True)
class UsersPlan:
    """How users behave. Every draw is by the number of the request or session, not by who sends it."""

    seed: int
    think: Distribution | None = None
    """Between the turns of a session; without sessions between the requests of a slot."""
    turns: Distribution | None = None
    """Turns of a session; None: units are single requests."""
    most_turns: int = 1
    real_history: bool = True
    """A turn quotes what the model answered before, not what the workload has in its place."""
    cancel_share: float = 0.0
    cancel_after: Distribution | None = None
    """Who leaves does so after so many tokens (unit "count"), or so long after the send ("duration")."""
    retries: int = 0
    """How often a request that was refused (429, 503) is tried again."""
    traceparent: "Traceparent | None" = None
    """Each request gets one."""
    scripted_sessions: bool = False
    """Units are sessions whose turns are the script's; `turns` is then None."""

    @property
    def has_sessions(self) -> bool:
        """Whether units are sessions."""
        return self.turns is not None or self.scripted_sessions


@dataclass(frozen=True, slots=True)
class Traceparent:
    """The header of that name, which goes into a request behind its first line."""

    run_id: bytes
    """16 hex digits."""


@dataclass(frozen=True, slots=True)
class Talk:
    """What later turns of a session are made of, since they quote answers that nobody knows before the run."""

    model: str
    system: str
    output_tokens: int
    ignore_eos: bool
    prompts: tuple[str, ...] = field(repr=False)
    """What a user says, behind the nonce: request k says prompts[k % len(prompts)]."""
    answers: tuple[str, ...] = field(repr=False)
    """What the history quotes as the answer to request k: answers[k % len(answers)]; () where it quotes the real one."""
    images: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """What a session whose first request is k shows in it: images[k % len(images)]; () where nobody shows any."""


@dataclass(frozen=True, slots=True)
class PromptPool:
    """Requests as bytes, less the few words that make each one unique.

    The body of request k is `before + nonce(k) + after`, (before, after) = bodies[k % len(bodies)]. The nonce is
    `nonce_words` words of equal length out of `vocabulary`, so that every body of the pool entry has one and the same
    length, no two requests of a run begin alike (but for a system prompt, which they are meant to share), and a prefix
    cache has nothing else to find.
    """

    bodies: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    vocabulary: tuple[bytes, ...] = field(repr=False)
    nonce_words: int
    seed: int
    talk: Talk | None = None
    """Only with sessions."""
    wanted_input_tokens: int | None = None
    """What the server should count for a first turn."""
    wanted_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a share of the requests goes to: a model, an adapter, an endpoint."""

    name: str
    wording: Wording
    pool: PromptPool = field(repr=False)
    routes: tuple[int, ...]
    """Its places in WorkerPlan.routes, one for each of its URLs."""


@dataclass(frozen=True, slots=True)
class Route:
    """A target at one of its URLs."""

    target: int
    endpoint: int
    """The URL's number in run.json."""
    origin: int
    """Its place in WorkerPlan.origins: whose connections it uses."""
    head: bytes = field(repr=False)
    """Request line and headers, but for Content-Length and the blank line. Holds the key: never printed."""
    called: str = ""
    """As failures are told; "" where there is but one."""


@dataclass(frozen=True, slots=True)
class ScriptPlan:
    """Where a worker's units come from when they are prepared while the run goes on: its ring (loadgen.ring)."""

    ring_fd: int
    ring_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """Which workers of a run are on one machine: `count` of all `workers`, from number `first` on."""

    first: int
    count: int
    workers: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.count))


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """All that a worker ever knows, but for its stages."""

    worker: int
    """Its number in the run."""
    workers: int
    """Of the whole run."""
    seat: int
    """Its number on this machine, whose workers share a board."""
    seats: int
    """How many there are on this machine."""
    core: int | None
    """The CPU to be pinned to; None: wherever the kernel likes."""
    transport: str
    spin: bool
    """Look for what is due and for what has come without ever sleeping."""
    origins: tuple[Endpoint, ...]
    """What is connected to; of the paths nothing is said here."""
    targets: tuple[Target, ...]
    routes: tuple[Route, ...] = field(repr=False)
    deal: Deal
    balance: str
    """How the routes of a target take turns: round-robin or least-in-flight."""
    limits: Limits
    users: UsersPlan
    script: ScriptPlan | None
    """None: requests are those of the pool."""
    tokenizer: str | None
    """To count the output of responses whose server does not."""
    capture_path: str
    metadata: dict[str, Any] = field(repr=False)
    """File metadata of the capture, as far as the coordinator knows it."""
    secrets: tuple[str, ...] = field(repr=False)
    """What must not appear in words that leave the process."""
    board_fd: int
    bodies_path: str | None = None
    """Where --save-bodies puts requests and responses; None: nowhere."""
