"""What is fuzzed: one function a target. Each takes any bytes, and its docstring is the contract, which it asserts."""

import asyncio
import itertools
import json
import re
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import pyarrow as pa

from analysis.summary import analyse, as_text
from loadgen.blotting import blotted
from loadgen.clock import monotonic_ns
from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import words_of_error
from loadgen.errors import ERROR_CLASSES, UsageError
from loadgen.plan import Endpoint, Limits
from loadgen.schedule.arrivals import read_trace
from loadgen.schema import CAPTURE_SCHEMA, CaptureError
from loadgen.spec.file import read_spec_file
from loadgen.spec.layers import settled
from loadgen.wire.http1 import ResponseReader
from loadgen.wire.sse import may_end_event, split_events
from loadgen.worker.capture import _COLUMNS
from loadgen.worker.connection import Read
from loadgen.worker.decoding import FRAMES_TRIED, Decoder
from loadgen.worker.exchange import Exchange
from loadgen.worker.framing import FramedSlots
from loadgen.worker.pacer import Pacer
from loadgen.worker.stamps import StampClock

_IN_MEMORY: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


# responses


class Slot:
    """A connection without a socket: see framing.Framed."""

    encrypted = tls_ended = False
    is_sent = True

    def __init__(self) -> None:
        self.slot = 0
        self.exchange: Exchange | None = None
        self.connecting = None
        self.reads: list[Read] = []
        self.urgent = True
        self.used = True
        self.is_open = True
        self.reader = ResponseReader()

    def decrypt(self, data: bytes) -> bytes:
        return data


class InMemory(FramedSlots[Slot]):
    """The framing that both transports share, over reads that the fuzzer made."""

    def _closed_slot(self, slot: int, origin: int) -> Slot:
        return Slot()

    async def _connect(self, connection: Slot) -> None: ...

    def _close(self, connection: Slot) -> None:
        connection.is_open = False
        connection.reads = []

    def _send(self, connection: Slot, exchange: Exchange) -> None: ...

    def submit(self, exchange: Exchange) -> None:  # a connection that broke before any byte is not opened again here
        self._end(self._connections[0], exchange, "connect-reset", "")

    def wake(self) -> None: ...


_clock: Final = StampClock()
_dialects: Final = list(DIALECTS.values())
ENDS: Final = ("", "closed", "reset", "aborted")


@cache
def _framing() -> InMemory:
    async def make() -> InMemory:
        return InMemory([Endpoint("h", 1, False, "/")], Limits(*[1 << 40] * 4), Pacer())

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(make())
    finally:
        loop.close()


def _outcome(pieces: list[bytes], dialect: int, leave_tokens: int, end: str, segment_bytes: int) -> Exchange:
    """Have one response read, framed, decoded and judged, as a worker does."""
    ended: list[Exchange] = []
    decoded: list[Exchange] = []
    framing = _framing()
    handed_bytes = framing._handed_bytes
    decoder = Decoder([_dialects[dialect % len(_dialects)]], _clock, decoded.append)
    framing.on_end, framing.on_segment = ended.append, decoder.on_segment
    framing.decode_now, framing.decode_one = decoder.decode_now, decoder.decode_one
    decoder.give_up = framing.abort
    framing._connections = [Slot()]
    framing._segment_bytes = segment_bytes
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.sent_ns = monotonic_ns()
    exchange.leave_tokens = leave_tokens
    exchange.texts = []
    connection = framing._connections[0]
    connection.exchange = exchange
    reads = [*pieces, *{"closed": [b""], "reset": [None]}.get(end, [])]
    for data in reads:
        if not connection.is_open:
            break
        stamp = struct.pack("qq", *divmod(monotonic_ns() + _clock.offsets_ns[0], 1_000_000_000))
        connection.reads.append((monotonic_ns(), [(1, 35, stamp)], data))
        framing._frame(connection)
        decoder.decode_one()
    framing.abort(exchange, "timeout-idle", "over the limit")
    while decoder.decode_one():
        pass
    connection.reader.close()
    assert ended == [exchange], "a request ends once"
    assert decoded == [exchange], "and is decoded once"
    assert decoder.decoded_bytes == framing._handed_bytes - handed_bytes
    assert decoder._held_bytes == 0
    return exchange


def responses(data: bytes) -> None:
    """Whatever a server sends, however it is cut: one request with one known class, its events and stamps in step, a row."""
    control, payload = data[:6].ljust(6, b"\0"), data[6:]
    dialect, end, leave_tokens = control[0], ENDS[control[1] % 4], control[2] % 8 if control[2] > 200 else 0
    sizes = itertools.cycle([1 + control[i] * control[i] // 16 for i in (3, 4, 5)])
    pieces, at = [], 0
    while at < len(payload):
        size = next(sizes)
        pieces.append(payload[at : at + size])
        at += size
    exchange = _outcome(pieces, dialect, leave_tokens, end, 64)
    error = exchange.error
    assert error is None or error in ERROR_CLASSES or re.fullmatch("http-[0-9]{1,3}", error), error
    assert error != "decode-failed", exchange.words
    assert error is not None or exchange.kinds, "a success has output"
    assert sum(map(len, exchange.event_ns)) == len(exchange.kinds) == len(exchange.cumulative)
    stamps = [int(stamp) for stamps in exchange.event_ns for stamp in stamps]
    assert stamps == sorted(stamps)
    assert not stamps or exchange.first_byte_ns <= stamps[0] <= stamps[-1] <= exchange.last_byte_ns
    assert exchange.response_bytes <= len(payload)
    if control[1] & 4:  # which takes longer than all the rest
        for field in CAPTURE_SCHEMA:
            values = _COLUMNS[field.name]([exchange], 0)
            column = values if isinstance(values, pa.Array) else pa.array(values, field.type)
            assert len(column) == 1
    blotted(exchange.words, ["sk-0123456789"]).encode()
    words_of_error(payload)
    if not leave_tokens and not control[1] & 8 and payload[:1] != b"\0":  # an HTTP/2 frame is told by one whole read
        whole = _outcome([payload] if payload else [], dialect, 0, end, 1 << 20)
        same = [(e.error, bytes(e.kinds), e.answer.output_tokens, e.answer.finish_reason) for e in (exchange, whole)]
        assert same[0] == same[1], f"where the reads fall changes more than the stamps: {same}"


# the two inner parts of it, which can be tried far more often


def events(data: bytes) -> None:
    """Any bytes, cut anywhere: the events of an event stream are the same, end in order, and none is split off too late."""
    size, stream = (data[0] if data else 0) % 61 + 1, data[1:]
    whole = split_events(stream, at_start=True, final=True)
    assert whole.consumed == len(stream)
    assert whole.ends == sorted(whole.ends)
    payloads, rest, started = [], b"", False
    for at in range(0, len(stream), size):
        new = stream[at : at + size]
        found = split_events(rest + new, at_start=not started, final=False)
        if rest and not may_end_event(rest, new):
            assert not found.payloads
        started = started or found.consumed > 0
        payloads += found.payloads
        rest = (rest + new)[found.consumed :]
    payloads += split_events(rest, at_start=not started, final=True).payloads
    assert payloads == whole.payloads


def payloads(data: bytes) -> None:
    """Any events to any dialect: a kind or a refusal each, sane counts, the same with comparing as with parsing alone."""
    dialect, events_ = _dialects[(data[0] if data else 0) % len(_dialects)], data[1:].split(b"\n\n")
    seen = []
    for frames_tried in (0, FRAMES_TRIED):
        exchange = Exchange(1, 0, 0, b"", 0)
        exchange.frames_tried = frames_tried
        exchange.texts = []
        decoder = Decoder([dialect], _clock, lambda _: None)
        output = decoder._read_events(exchange, events_)
        assert len(output) == len(events_)
        answer = exchange.answer
        for tokens in (answer.prompt_tokens, answer.output_tokens, answer.reasoning_tokens, answer.cached_tokens):
            assert tokens is None or 0 <= tokens < 1 << 31
        for text in (answer.response_id, answer.finish_reason, answer.error_words):
            assert text is None or isinstance(text.encode(), bytes)
        told = {name: getattr(answer, name) for name in answer.__slots__ if name != "cumulative_tokens"}
        seen.append((bytes(exchange.kinds), exchange.cumulative.tolist(), exchange.texts, exchange.bad_event, told))
    assert seen[0] == seen[1]


# what a user gives


def specs(data: bytes) -> None:
    """Any bytes as a spec file: a checked spec, or one sentence that names the file."""
    path = _scratch / ("spec.json" if data[:1] == b"J" else "spec.toml")
    path.write_bytes(data[1:])
    try:
        spec = settled({}, read_spec_file(str(path)), {})
    except UsageError as error:
        words = str(error)
    else:
        words = f"{path}: {json.dumps(spec.to_json(), allow_nan=False)}"
    assert str(path) in words or "--" in words, words
    assert "\n" not in words


def traces(data: bytes) -> None:
    """Any bytes as a trace: ascending times from 0, or one sentence that names file and line."""
    path = _scratch / "trace.txt"
    path.write_bytes(data)
    try:
        due_ns = read_trace(path)
    except ValueError as error:
        words = str(error)
    else:
        words = f"{path}"
        assert len(due_ns)
        assert due_ns[0] >= 0
        assert (due_ns[1:] >= due_ns[:-1]).all()
    assert str(path) in words
    assert "\n" not in words


# what a run leaves


def captures(data: bytes) -> None:
    """Any bytes as a capture, with or without a run.json: a summary that is JSON, or one sentence."""
    capture, run_json = _scratch / "run/capture/worker-00.arrow", _scratch / "run/run.json"
    capture.parent.mkdir(parents=True, exist_ok=True)
    run_json.unlink(missing_ok=True)
    if data[:1] == b"R":
        head, _, data = data[1:].partition(b"\0\0\0\0")
        run_json.write_bytes(head)
    capture.write_bytes(data)
    try:
        analysis = analyse(_scratch / "run")
    except CaptureError as error:
        words = str(error)
    else:
        words = as_text(analysis.summary)[:1]
    assert "\n" not in words


_scratch = Path(tempfile.mkdtemp(prefix="loadgen-fuzz-", dir=_IN_MEMORY))

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "responses": responses,
    "events": events,
    "payloads": payloads,
    "specs": specs,
    "traces": traces,
    "captures": captures,
}
