"""What the scraping process is told: once a plan, then the borders of each stage as it begins."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Source:
    """A page of metrics."""

    url: str = field(repr=False)
    shown: str
    """The URL as files and messages have it, without its query."""
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Headers with the key; only for pages of the endpoint that it is for."""


@dataclass(frozen=True, slots=True)
class ScrapePlan:
    """All that the process ever knows."""

    sources: tuple[Source, ...]
    every_ns: int
    path: str
    run_id: str
    cpus: tuple[int, ...] | None
    """Where it may run; None: wherever the kernel likes."""
    tls_ca: str | None = None
    insecure: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must not appear in words."""
    environment: dict[str, str] | None = field(default=None, repr=False)
    """Of the process; None: that of this one."""
    saying_fd: int = -1
    """Where the process says what is wrong with a source: a line of JSON {"source", "words"} each;
    without words that it is ready."""


@dataclass(frozen=True, slots=True)
class Borders:
    """Moments at which every source is scraped once more, CLOCK_MONOTONIC ns; one that has passed is now."""

    at_ns: tuple[int, ...]
