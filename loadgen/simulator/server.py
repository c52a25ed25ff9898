"""The server: connections, and one engine that all of them share.

Between two polls of the loop lies one tick, or SLICE_NS of them where they are shorter; a tick that falls due while a
burst of requests is read is sent between two of them.
"""

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from loadgen.arrow import prepare_pyarrow
from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.errors import RunError
from loadgen.simulator.answer import Draws
from loadgen.simulator.ask import Rules
from loadgen.simulator.connection import Connection
from loadgen.simulator.engine import Engine, EngineParameters
from loadgen.simulator.exposition import Tally
from loadgen.simulator.stream import Reply
from loadgen.simulator.ticker import timer
from loadgen.simulator.truth import TruthLog
from loadgen.simulator.wording import Style

ENDING: Final = (signal.SIGINT, signal.SIGTERM)
BACKLOG: Final = 8192

# Requests are read between two slices; a slice is long enough for tens of events. Not a knob.
SLICE_NS: Final = 1_000_000

# With clocks of their own, 1,000 streams have an event every 20 us; a turn of the loop for each would cost more than the
# event. So it rests between two slices: no event is later for it than this, and the log has the true time. Not a knob.
REST_NS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a server is told; `api_key` None means that no key is asked for. `metrics` is the preset of /metrics
    ("vllm" or "sglang"), `kv_cache_tokens` what its usage is a share of."""

    engine: EngineParameters
    style: Style
    rules: Rules
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    truth: Path | None = None
    api_key: str | None = None
    faults: tuple[str, ...] = ()
    fault_share: float = 1.0
    stall_ns: int = 10 * NS_PER_S
    split_writes: bool = False
    tls: ssl.SSLContext | None = None
    metrics: str = "vllm"
    kv_cache_tokens: int = 1 << 20
    flush_ns: int = NS_PER_S


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did in its life. `slips`: how often the engine's clock started anew because the server was late."""

    requests: int
    tokens: int
    span_ns: int
    slips: int


class Server:
    """Connections, the engine and the log; one an event loop."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.engine: Engine[Reply] = Engine(settings.engine, settings.seed)
        self.log = TruthLog(settings.truth)
        self.tally = Tally()
        self.connections: set[Connection] = set()
        self.connections_made = 0
        # Each purpose has a stream of its own, so that switching one option on does not change the others' draws.
        self.draws = Draws.of(settings.seed)
        self.fault_draws = random.Random(f"fault {settings.seed}")
        self.id_draws = random.Random(f"id {settings.seed}")
        self.cut_draws = random.Random(f"cut {settings.seed}")
        self._timer = timer(loop, self.send_due)

    def maybe_fault(self) -> str | None:
        faults = self.settings.faults
        if not faults or self.fault_draws.random() >= self.settings.fault_share:
            return None
        return self.fault_draws.choice(faults)

    def submit(self, reply: Reply, now_ns: int) -> None:
        self.engine.submit(reply, now_ns)
        self._timer.arm(self.engine.next_due_ns)

    def cancel(self, reply: Reply) -> None:
        self.engine.cancel(reply, monotonic_ns())
        self._timer.arm(self.engine.next_due_ns)

    def close(self) -> None:
        """End what is under way, log it as stopped, close the log."""
        self._timer.close()
        for connection in list(self.connections):
            connection.stop()
        self.log.close()

    def send_due(self) -> None:
        """Send what is due by now, and set the timer for what is next."""
        engine = self.engine
        now_ns = monotonic_ns()
        until_ns = now_ns + SLICE_NS
        while (due_ns := engine.next_due_ns) is not None and due_ns <= now_ns < until_ns:
            for reply in engine.advance(now_ns):
                reply.emit()
            now_ns = monotonic_ns()
        due_ns = engine.next_due_ns
        if due_ns is not None and not self.settings.engine.lock_step:
            due_ns = max(due_ns, now_ns + REST_NS)
        self._timer.arm(due_ns)


async def serve(settings: Settings, ready: Callable[[str], None], stop_on_eof: int | None = None) -> Served:
    """Serve until SIGINT or SIGTERM, or until the descriptor `stop_on_eof` reaches its end.

    `ready` is called with the base URL once connections are taken. RunError when the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    _raise_descriptor_limit()
    prepare_pyarrow()
    stop = asyncio.Event()
    for number in ENDING:
        loop.add_signal_handler(number, stop.set)
    if stop_on_eof is not None:
        loop.add_reader(stop_on_eof, _stop_at_end, stop_on_eof, stop)
    server = Server(settings, loop)
    try:
        listener = await loop.create_server(lambda: Connection(server), settings.host, settings.port, backlog=BACKLOG)
    except OSError as error:
        server.close()
        raise RunError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}") from None
    # Requests come and go by counting references alone; what the start left is no longer looked at.
    gc.collect()
    gc.freeze()
    gc.disable()
    began_ns = monotonic_ns()
    ready(_url(listener, settings))
    flusher = asyncio.create_task(_flush(server.log, settings.flush_ns / NS_PER_S))
    try:
        await _first(stop, flusher)
    finally:
        flusher.cancel()
        listener.close()
        server.close()
    await asyncio.sleep(0)  # lets the transports close their descriptors
    for number in ENDING:  # a second one, as the process leaves in order, has nothing more to end
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    return Served(server.log.requests, server.log.tokens, monotonic_ns() - began_ns, server.engine.slips)


def _stop_at_end(descriptor: int, stop: asyncio.Event) -> None:
    if not os.read(descriptor, 4096):
        stop.set()


async def _flush(log: TruthLog, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        log.flush()
        gc.collect(0)  # an error's traceback may make a cycle; what is young is little


async def _first(stop: asyncio.Event, flusher: "asyncio.Task[None]") -> None:
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((stopped, flusher), return_when=asyncio.FIRST_COMPLETED)
    if flusher.done():
        stopped.cancel()
        error = flusher.exception()
        raise RunError(f"the truth log cannot be written: {error}") from error


def _url(listener: asyncio.AbstractServer, settings: Settings) -> str:
    port = cast("asyncio.Server", listener).sockets[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{host}:{port}/v1"


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(settings: Settings, ready: Callable[[str], None], stop_on_eof: int | None = None) -> Served:
    """`serve` on an event loop of its own; uvloop where the platform has it."""
    if sys.platform == "win32":
        raise RunError("the simulator needs a POSIX system")
    import uvloop

    return uvloop.run(serve(settings, ready, stop_on_eof))


def wall_clock_s() -> int:
    """The `created` field of responses."""
    return int(time.time())
