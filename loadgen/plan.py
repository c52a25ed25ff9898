"""The plan: values that travel to the workers before the start. No behaviour, and nothing a worker could leak by printing.

A worker gets one WorkerPlan and never hears of the spec, the prompts' making or the other workers.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """Where the requests go."""

    host: str
    port: int
    tls: bool
    path: str
    """Path and query of the request line."""
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
class StagePlan:
    """One level of load, as one worker has to make it."""

    stage: int
    concurrency: int
    """This worker's share of the requests in flight."""
    all_slots: int
    """The requests in flight of all workers together; see worker.drive for how ids are dealt to them."""
    requests: int | None
    """This worker's share of the requests to send; None when the stage is bounded by its duration."""
    warmup_ns: int
    duration_ns: int | None
    """Time of sending behind the warm-up; None when the stage is bounded by its requests."""
    drain_ns: int
    """How long requests in flight may go on after the last send."""


@dataclass(frozen=True, slots=True)
class PromptPool:
    """Requests as bytes, less the few words that make each one unique.

    Request k is `head + before + nonce(k) + after`, (before, after) = bodies[k % len(bodies)]. The nonce is `nonce_words`
    words of equal length out of `vocabulary`, so that every body of the pool entry has one and the same length, no two
    requests of a run begin alike, and a prefix cache has nothing to find.
    """

    head: bytes = field(repr=False)
    """Request line and headers, but for Content-Length and the blank line. Holds the key: never printed."""
    bodies: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    vocabulary: tuple[bytes, ...] = field(repr=False)
    nonce_words: int
    seed: int


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """All that a worker ever knows."""

    worker: int
    workers: int
    core: int | None
    """The CPU to be pinned to; None: wherever the kernel likes."""
    transport: str
    dialect: str
    target: Target
    limits: Limits
    stages: tuple[StagePlan, ...]
    pool: PromptPool = field(repr=False)
    capture_path: str
    metadata: dict[str, Any] = field(repr=False)
    """File metadata of the capture, as far as the coordinator knows it."""
    secrets: tuple[str, ...] = field(repr=False)
    """What must not appear in words that leave the process."""
    board_fd: int
