"""One answer on its way: what the engine gives, encoded, faulted where asked for, sent and stamped.

The common case, a stream without a fault whose events go out whole, is the first half of `emit`; everything unusual
goes through `_emit_unusual` and `_put`.
"""

import random
from array import array
from typing import TYPE_CHECKING, Final

from loadgen.clock import NS_PER_S
from loadgen.simulator import encode
from loadgen.simulator.ask import Ask
from loadgen.simulator.encode import Answer, StreamEncoder, Style
from loadgen.simulator.engine import Sequence
from loadgen.simulator.faults import HALFWAY
from loadgen.simulator.truth import Row

if TYPE_CHECKING:
    from loadgen.simulator.server import Connection

_ID_PREFIX: Final = {"chat": "chatcmpl-", "completions": "cmpl-"}


class Reply(Sequence):
    """A sequence with a connection: the engine moves `tokens_done` on, `emit` sends what is new.

    Its life: `accepted` once, `emit` at every event, and one end, which logs it: its own or `broken_off`.
    """

    __slots__ = (
        "_answer",
        "_complete",
        "_connection",
        "_deferred_before",
        "_encoder",
        "_event_ns",
        "_event_tokens",
        "_fault",
        "_first_byte_ns",
        "_framing",
        "_held",
        "_keep_alive",
        "_last_byte_ns",
        "_over",
        "_plain",
        "_read_ns",
        "_sent_tokens",
        "_silent",
        "_split",
        "_struck",
        "_style",
    )

    def __init__(
        self, connection: "Connection", ask: Ask, version: str, keep_alive: bool, fault: str | None, read_ns: int
    ) -> None:
        server = connection.server
        style = server.settings.style
        super().__init__(ask.prompt_tokens, 1 if fault == "empty" else ask.output_tokens)
        self._connection = connection
        self._style: Style = style
        self._fault = fault
        self._read_ns = read_ns
        self._answer = Answer(
            f"{_ID_PREFIX[ask.dialect]}{server.id_draws.getrandbits(128):032x}",
            ask.dialect,
            ask.prompt_tokens,
            0 if fault == "empty" else ask.output_tokens,
            ask.finish_reason,
            ask.include_usage,
            ask.continuous_usage,
        )
        self._encoder: StreamEncoder | None = None
        self._framing = "content-length"
        if ask.stream and fault != "not-a-stream":
            # HTTP/1.0 knows no chunks.
            self._framing = "close" if version == "1.0" and style.framing == "chunked" else style.framing
            self._encoder = StreamEncoder(style, self._answer, self._framing)
        self._keep_alive = keep_alive and self._framing != "close" and fault != "close-after-response"
        self._split: random.Random | None = server.cut_draws if server.settings.split_writes else None
        # The encoder, in the common case.
        self._plain = self._encoder if fault is None and self._split is None else None

        self._event_ns = array("q")
        self._event_tokens: list[int] | None = [] if self._encoder is None or style.tokens_per_event > 1 else None
        self._sent_tokens = 0
        self._first_byte_ns: int | None = None
        self._last_byte_ns: int | None = None
        self._deferred_before = connection.deferred_writes
        self._silent = fault == "stall-first-byte"
        self._held: list[tuple[bytes, int, int]] = []  # what `_put` was given during a silence
        self._struck = False  # the fault of the middle has happened
        self._complete = False  # everything was put, though it may still be held
        self._over = False

    def accepted(self) -> None:
        """The request is in the engine: what a server sends before there is any token."""
        if self._silent:
            self._speak_later()
        if self._encoder is not None:
            connection = f"connection: {'keep-alive' if self._keep_alive else 'close'}"
            self._put(self._encoder.head(connection) + self._encoder.early())

    def emit(self) -> None:
        """The engine gave tokens: send them. After the last ones the reply has logged itself."""
        first, done = self._sent_tokens, self.tokens_done
        self._sent_tokens = done
        encoder = self._plain
        if encoder is None:
            self._emit_unusual(first, done - first)
            return
        data = encoder.output(first, done - first)
        if first == 0:
            data = encoder.late() + data
        last = done == self.output_tokens
        if last:
            data += encoder.closing()
        sent_ns = self._connection.send(data)
        if self._event_tokens is None:
            self._event_ns.append(sent_ns)
        else:
            self._stamp(sent_ns, first, done - first)
        if last:
            self._last_byte_ns = sent_ns
            self._finish("complete", self._keep_alive)

    def broken_off(self, ended: str) -> None:
        """The connection is gone, or the server ends; `ended` is a key of truth.ENDED."""
        if not self._over:
            self._connection.server.cancel(self)
            self._log(ended)

    def _emit_unusual(self, first: int, count: int) -> None:
        encoder = self._encoder
        last = self.tokens_done == self.output_tokens
        if self._over:
            return
        if encoder is None:
            if last:
                self._put_json()
            return
        if first == 0:
            self._put(encoder.late())
        if self._fault != "empty":
            border = encoder.reasoning_tokens
            if first < border < first + count:  # two events, which may be cut apart: a stamp each
                self._put(encoder.output(first, border - first), first, border - first)
                first, count = border, first + count - border
            self._put(encoder.output(first, count), first, count)
        if self._fault in HALFWAY and not self._struck and 2 * self._sent_tokens >= self.output_tokens:
            self._struck = True
            self._strike(encoder)
        if last and not self._over:
            self._put(encoder.closing())
            self._complete = True
            self._maybe_finish()

    def _put_json(self) -> None:
        fields = [
            f"connection: {'keep-alive' if self._keep_alive else 'close'}",
            f"x-request-id: {self._answer.response_id}",
        ]
        data = encode.whole(200, "application/json", encode.json_response(self._style, self._answer), *fields)
        if self._fault in ("reset-mid-stream", "truncate"):
            self._put(data[: len(data) - len(data) // 4])
            self._break(reset=self._fault == "reset-mid-stream")
            return
        self._put(data, 0, self.output_tokens)
        self._complete = True
        self._maybe_finish()

    def _strike(self, encoder: StreamEncoder) -> None:
        match self._fault:
            case "stall-mid-stream":
                self._silent = True
                self._speak_later()
            case "reset-mid-stream" | "truncate":
                self._break(reset=self._fault == "reset-mid-stream")
            case "missing-end" | "error-event":
                self._put(encoder.error() if self._fault == "error-event" else encoder.end_of_body())
                self._connection.server.cancel(self)
                # Only chunks can end before their time and leave a connection that is of use.
                self._finish("fault", self._keep_alive and self._framing == "chunked")

    def _put(self, data: bytes, first: int = 0, count: int = 0) -> None:
        """Send `data`, which carries `count` tokens from number `first` on; during a silence, hold it back."""
        if self._silent:
            self._held.append((data, first, count))
            return
        if not data:
            return
        began_ns, sent_ns = self._send(data, count)
        if self._first_byte_ns is None:
            self._first_byte_ns = began_ns
        self._last_byte_ns = sent_ns
        if count:
            self._stamp(sent_ns, first, count)

    def _send(self, data: bytes, count: int) -> tuple[int, int]:
        """Times just before the send of the first byte, and of the byte that ends the event."""
        connection = self._connection
        if self._split is None:
            sent_ns = connection.send(data)
            return sent_ns, sent_ns
        decisive = self._encoder.event_end(data) if self._encoder is not None and count else len(data) - 1
        began_ns = sent_ns = 0
        behind = 0
        for cut in [*encode.cuts(len(data), self._split), len(data)]:
            part_ns = connection.send(data[behind:cut])
            began_ns = began_ns or part_ns
            if behind <= decisive < cut:
                sent_ns = part_ns
            behind = cut
        return began_ns, sent_ns

    def _stamp(self, sent_ns: int, first: int, count: int) -> None:
        self._event_ns.append(sent_ns)
        if self._event_tokens is None:
            return
        border = self._encoder.reasoning_tokens if self._encoder is not None else 0
        if first < border < first + count:
            self._event_ns.append(sent_ns)
            self._event_tokens += (border - first, first + count - border)
        else:
            self._event_tokens.append(count)

    def _speak_later(self) -> None:
        server = self._connection.server
        server.loop.call_later(server.settings.stall_ns / NS_PER_S, self._speak)

    def _speak(self) -> None:
        self._silent = False
        held, self._held = self._held, []
        if not self._over:
            for piece in held:
                self._put(*piece)
            self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._complete and not self._silent:
            self._finish("complete", self._keep_alive and self._fault != "close-idle")

    def _break(self, *, reset: bool) -> None:
        self._connection.server.cancel(self)
        self._log("fault")
        self._connection.cut(reset=reset)

    def _finish(self, ended: str, keep_alive: bool) -> None:
        self._log(ended)
        self._connection.finished(keep_alive)

    def _log(self, ended: str) -> None:
        self._over = True
        self._plain = None
        self._connection.server.log.add(
            Row(
                self._read_ns,
                self._connection.number,
                200 if self._first_byte_ns is not None else None,
                ended,
                self._answer.response_id,
                self.admitted_ns,
                self._first_byte_ns,
                self._last_byte_ns,
                self.prompt_tokens,
                self._fault,
                self._connection.deferred_writes - self._deferred_before,
                self._event_ns,
                self._event_tokens,
            )
        )
