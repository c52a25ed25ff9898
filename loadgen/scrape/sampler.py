"""The scraping process: fetch each page on an absolute schedule and at the borders of stages, parse, record.

Started as `python -m loadgen.scrape.sampler`; its plan comes through standard input, then Borders. When that line closes the
run is over, or its coordinator gone: every source is scraped a last time, the file closed. It gives way to everybody (nice
19), and keeps off the workers' cores where there are others. Nothing that a server does ends it: what is wrong with a scrape
stands beside it in the file, and is told to the coordinator once.
"""

import asyncio
import contextlib
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp
import orjson

from loadgen.arrow import prepare_pyarrow
from loadgen.blotting import blotted
from loadgen.clock import NS_PER_S, monotonic_ns, realtime_offset_ns
from loadgen.schema import SCRAPE_SCHEMA_VERSION
from loadgen.scrape.plan import Borders, ScrapePlan
from loadgen.scrape.presets import WANTED
from loadgen.scrape.recording import Recording
from loadgen.trust import tls
from loadgen.wire.exposition import Page, read_page

# vLLM's page has 100 to 300 KB; one of many replicas behind one address some MB.
MOST_BODY_BYTES: Final = 8 << 20

TIMEOUT_S: Final = 5.0

LAST_TIMEOUT_S: Final = 2.0
"""For the scrapes at the end, which the user waits for."""

MOST_AT_ONCE: Final = 2
"""Of one source: a slow one must not gather connections. One more may be made at a border."""

WRITE_S: Final = 1.0

MOST_WORDS: Final = 200

ACCEPT: Final = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"


class ScrapeError(Exception):
    """A scrape that holds nothing; why, in words."""

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


class Sampler:
    """Scrapes until the line closes."""

    def __init__(self, plan: ScrapePlan, line: "Connection[None, Borders]", session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._line = line
        self._session = session
        self._recording = Recording(
            plan.path,
            {
                "scrape_schema": SCRAPE_SCHEMA_VERSION,
                "run_id": plan.run_id,
                "sources": [source.shown for source in plan.sources],
                "every_ns": plan.every_ns,
                "realtime_offset_ns": realtime_offset_ns(),
            },
        )
        self._at_once = [0] * len(plan.sources)
        self._missed = [0] * len(plan.sources)
        self._said: set[tuple[int, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def work(self) -> None:
        """Until the line closes; the file is whole in every case."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._line.fileno(), self._hear)
        origin_ns = monotonic_ns()
        self._recording.write(self._missed)  # the file can be read from the first moment
        self._tell({"source": -1, "words": ""})  # ready
        for source in range(len(self._plan.sources)):
            self._begin(self._keep_scraping(source, origin_ns))
        try:
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), WRITE_S)
                self._recording.write(self._missed)
            last = [self._scrape(source, border=True) for source in range(len(self._plan.sources))]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*last), LAST_TIMEOUT_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)  # what was in flight is told too
            self._recording.close(self._missed)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self) -> None:
        try:
            for at_ns in self._line.recv().at_ns:
                self._begin(self._scrape_at(at_ns))
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._over.set()

    async def _keep_scraping(self, source: int, origin_ns: int) -> None:
        number = 0
        while True:
            self._begin(self._scrape(source))
            # A schedule of its own, whatever a scrape takes; what lies behind by now is skipped.
            skipped = max((monotonic_ns() - origin_ns) // self._plan.every_ns - number, 0)
            number += skipped + 1
            await _until(origin_ns + number * self._plan.every_ns)

    async def _scrape_at(self, at_ns: int) -> None:
        await _until(at_ns)
        for source in range(len(self._plan.sources)):
            self._begin(self._scrape(source, border=True))

    async def _scrape(self, source: int, border: bool = False) -> None:
        if self._at_once[source] >= MOST_AT_ONCE + border:
            self._missed[source] += 1
            return
        self._at_once[source] += 1
        told: dict[str, Any] = {"source": source, "border": border, "status": None, "error": None, "bytes": 0}
        page: Page | None = None
        told["t_send_ns"] = monotonic_ns()
        try:
            told["status"], body = await self._fetch(source)
            told["t_recv_ns"] = monotonic_ns()
            told["bytes"] = len(body)
            page = read_page(body.decode("utf-8", "replace"), WANTED)
            if not page.samples:
                told["error"] = "the page holds no metric that is known here"
        except (ScrapeError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            told["error"] = self._words(error, source)
            told["status"] = getattr(error, "status", None)
        except asyncio.CancelledError:
            told["error"] = "not answered before the run's end"
        finally:
            self._at_once[source] -= 1
        told.setdefault("t_recv_ns", monotonic_ns())
        self._recording.add(told, page)
        if told["error"] is not None:
            self._say(source, told["error"])

    async def _fetch(self, source: int) -> tuple[int, bytes]:
        where = self._plan.sources[source]
        async with self._session.get(where.url, headers=dict(where.fields), allow_redirects=False) as response:
            if response.status != 200:
                raise ScrapeError(f"status {response.status}", response.status)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ScrapeError("the page is compressed, which was not asked for", response.status)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MOST_BODY_BYTES:
                    raise ScrapeError(f"the page is longer than {MOST_BODY_BYTES >> 20} MB", response.status)
            return response.status, bytes(body)

    def _words(self, error: Exception, source: int) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {TIMEOUT_S:g} s"
        if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
            return f"cannot connect: {os.strerror(error.os_error.errno).lower()}"
        words = " ".join((str(error) or type(error).__name__).split())
        shown = self._plan.sources[source].shown
        words = blotted(words.replace(self._plan.sources[source].url, shown), self._plan.secrets)
        return "".join(char if char.isprintable() else "?" for char in words)[:MOST_WORDS]

    def _say(self, source: int, words: str) -> None:
        """Tell the coordinator, each thing once; a page that changes its words must not fill the pipe."""
        if (source, words) in self._said or sum(one == source for one, _ in self._said) >= 3:
            return
        self._said.add((source, words))
        self._tell({"source": source, "words": words})

    def _tell(self, told: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.write(self._plan.saying_fd, orjson.dumps(told) + b"\n")


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(at_ns - monotonic_ns(), 0) / NS_PER_S)


def _session(plan: ScrapePlan) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls(plan.tls_ca, plan.insecure)),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        headers={"Accept": ACCEPT, "Accept-Encoding": "identity"},
        auto_decompress=False,  # some KB may become some GB
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=1 << 18,
    )


async def live(plan: ScrapePlan, line: "Connection[None, Borders]") -> None:
    """The process's one task."""
    async with _session(plan) as session:
        await Sampler(plan, line, session).work()


def main() -> None:
    """The process; exit status 0 unless the file could not be written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    line: Connection[None, Any] = Connection(os.dup(sys.stdin.fileno()), writable=False)
    plan: ScrapePlan = line.recv()
    with contextlib.suppress(OSError):
        os.nice(19)
    if plan.cpus is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, plan.cpus)
    prepare_pyarrow()
    try:
        asyncio.run(live(plan, line))
    except OSError as error:
        sys.exit(f"the scrapes cannot be written: {error.strerror or error}")


if __name__ == "__main__":
    main()
