"""An agent as the driver sees it: its links, its clock, the last that was heard of it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadgen.board import percentile_ns
from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.cluster import clock
from loadgen.cluster.agent import CLOCK_BYTES
from loadgen.cluster.gather import Gathering
from loadgen.cluster.link import GONE_S, Link, LinkError, connected
from loadgen.coordinator import Outcome, StageNow
from loadgen.plan import Share

BURST: Final = 8
"""Round trips of one estimate, during a run."""

LONG_BURST: Final = 32
"""Before and after it."""


@dataclass
class Node:
    """One of them. What `heard` changes is changed under `news`, which wakes whoever waits for it."""

    number: int
    host: str
    port: int
    facts: dict[str, Any]
    token: bytes = field(repr=False)
    news: threading.Condition = field(repr=False)

    def __post_init__(self) -> None:
        self.share = Share(0, 0, 0)
        self.cores: tuple[int | None, ...] = ()
        self.folder = Path()
        self.pids: list[int] = []
        """Of its workers, on its machine."""
        self.bounds: list[clock.Bound] = []
        self.latest: StageNow | None = None
        self.ready = -1
        self.due_digest = ""
        self.ahead_ns: int | None = None
        self.outcome: Outcome | None = None
        self.finished: dict[str, int] | None = None
        self.lost = ""
        """Why its share of the load is missing, once it is."""
        self.is_gone = False
        """Its agent cannot be asked for anything any more, its captures neither."""
        self.lost_at_ns: int | None = None
        self.ungathered = ""
        """Why its captures are not where they were wanted."""
        self.heard_ns = monotonic_ns()
        self.gathering: Gathering | None = None
        self._gather_alone = threading.Lock()
        self._control: Link | None = None
        self._clock: Link | None = None
        self._files: Link | None = None

    @property
    def name(self) -> str:
        """As a person would call it."""
        return f"node {self.number} ({self.facts['host']['name']})"

    @property
    def is_alive(self) -> bool:
        return not self.lost

    def connect(self) -> None:
        """The links for orders and for the clock. LinkError."""
        self._clock = connected(self.host, self.port, self.token, "clock")
        self._clock.set_timeout(GONE_S)
        self._control = connected(self.host, self.port, self.token, "control")
        threading.Thread(target=self._listen, args=(self._control,), name="node", daemon=True).start()

    def close(self) -> None:
        """All links; its agent then ends its workers, if it has any."""
        for link in (self._control, self._clock, self._files):
            if link is not None:
                link.close()

    def estimate(self, trips: int = BURST) -> None:
        """One more bound on its clock. LinkError where it does not answer."""
        assert self._clock is not None
        found = []
        for _ in range(trips):
            sent_ns = monotonic_ns()
            self._clock.send(b"?")
            there_ns = int.from_bytes(self._clock.receive()[:CLOCK_BYTES], "big", signed=True)
            found.append(clock.RoundTrip(sent_ns, there_ns, monotonic_ns()))
        fresh = clock.bound(found)
        self.bounds.append(clock.carried_on(self.bounds[-1], fresh) if self.bounds else fresh)

    def order(self, do: str, **more: Any) -> None:
        """Tell its agent what to do; one that is gone is told nothing more."""
        assert self._control is not None
        if self.is_gone:
            return
        try:
            self._control.tell(do=do, **more)
        except LinkError as error:
            self.lose(str(error))

    def begin_stage(self) -> None:
        """Forget the stage before."""
        self.latest, self.outcome, self.ahead_ns = None, None, None

    def gather(self) -> None:
        """Fetch what its workers have written since. LinkError where it is gone."""
        assert self.gathering is not None
        with self._gather_alone:
            if self._files is None:
                self._files = connected(self.host, self.port, self.token, "files")
                self._files.set_timeout(GONE_S)
            self.gathering.over(self._files)

    def lose(self, words: str) -> None:
        """It is no longer there, for this reason."""
        with self.news:
            self.is_gone = True
            if not self.lost:
                self.lost, self.lost_at_ns = words, monotonic_ns()
            self.news.notify_all()
        self.close()

    def told(self) -> dict[str, Any]:
        """What run.json says of it."""
        points = clock.points(self.bounds)
        return {
            "node": self.number,
            "name": self.facts["host"]["name"],
            "address": self.host,
            "host": self.facts["host"],
            "workers": [self.share.first, self.share.first + self.share.count],
            "clock": [list(point) for point in points],
            "clock_uncertainty_ns": clock.uncertainty_between_ns(points) if points else None,
            "lost": {"at_ns": self.lost_at_ns, "words": self.lost} if self.lost else None,
        }

    def _listen(self, link: Link) -> None:
        try:
            while True:
                self._hear(link.hear())
        except LinkError as error:
            if self.finished is None:
                self.lose(str(error))
        except (KeyError, TypeError, ValueError) as error:
            self.lose(f"it said something that is not understood ({type(error).__name__}: {error})")

    def _hear(self, said: dict[str, Any]) -> None:
        with self.news:
            self.heard_ns = monotonic_ns()
            if "report" in said:
                self.latest = now_of(said["report"])
            elif "ready" in said:
                self.ready, self.due_digest = said["ready"], said["digest"]
            elif "started" in said:
                self.ahead_ns = said["ahead_ns"]
            elif "ended" in said:
                self.outcome = Outcome(said["reason"], said["words"])
            elif "finished" in said:
                self.finished = said["finished"]
            elif "broken" in said:
                self.lost, self.lost_at_ns = said["broken"], monotonic_ns()
            self.news.notify_all()


def now_of(told: dict[str, Any]) -> StageNow:
    """A report as it came. TypeError where it is none."""
    lists = {name: tuple(told[name]) for name in ("cpu_ns", "ttft_counts", "tpot_counts")}
    return StageNow(**told | lists)


def together(nows: list[StageNow], stage: int, start_ns: int, workers: int) -> StageNow:
    """What several nodes report of a stage, as if it were one machine; `start_ns` is the driver's."""

    def total(name: str) -> int:
        return sum(getattr(now, name) for now in nows)

    def counts(name: str) -> tuple[int, ...]:
        columns = [getattr(now, name) for now in nows if getattr(now, name)]
        return tuple(map(sum, zip(*columns, strict=True)))

    def worst(name: str) -> int:
        return max((getattr(now, name) for now in nows), default=0)

    ttft_counts, tpot_counts = counts("ttft_counts"), counts("tpot_counts")
    cpu_ns = tuple(one for now in nows for one in now.cpu_ns)
    return StageNow(
        stage=stage,
        elapsed_s=(monotonic_ns() - start_ns) / NS_PER_S,
        in_flight=total("in_flight"),
        sent=total("sent"),
        completed=total("completed"),
        failed=total("failed"),
        cancelled=total("cancelled"),
        offered=total("offered"),
        dropped=total("dropped"),
        events=total("events"),
        reads=total("reads"),
        decoded_reads=total("decoded_reads"),
        ttft_p50_ns=percentile_ns(ttft_counts, 50),
        tpot_p50_ns=percentile_ns(tpot_counts, 50),
        lag_ns=worst("lag_ns"),
        lateness_ns=worst("lateness_ns"),
        cpu_ns=cpu_ns or (0,) * workers,
        draining=any(now.draining for now in nows),
        start_ns=start_ns,
        ttft_p99_ns=percentile_ns(ttft_counts, 99),
        ttft_counts=ttft_counts,
        tpot_counts=tpot_counts,
        words=next((now.words for now in nows if now.words), ""),
    )
