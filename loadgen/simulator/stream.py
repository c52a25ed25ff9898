"""One answer on its way: what the engine gives, worded, faulted where asked for, sent and stamped.

The common case, a stream without a fault whose steps are one event each that goes out whole, is the first half of
`emit`, with `_emit_edge` for its first and last event; everything unusual goes through `_emit_unusual` and `_put`.
"""

import random
from array import array
from typing import TYPE_CHECKING, Final

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.simulator import encode
from loadgen.simulator.answer import HIDDEN, Answer
from loadgen.simulator.ask import Call
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.dialects.embeddings import embeds
from loadgen.simulator.encode import StreamEncoder
from loadgen.simulator.engine import Sequence
from loadgen.simulator.exposition import Ended
from loadgen.simulator.faults import HALFWAY
from loadgen.simulator.prefix_cache import BLOCK_TOKENS
from loadgen.simulator.truth import Row
from loadgen.simulator.wording import to_json

if TYPE_CHECKING:
    from loadgen.simulator.connection import Connection

ERROR_WORDS: Final = "the engine gave up (asked for by --fault)"


class Reply(Sequence):
    """A sequence with a connection: the engine moves `tokens_done` on, `emit` sends what is new.

    Its life: `accepted` once, `emit` at every event, and one end, which logs it: its own or `broken_off`.
    """

    __slots__ = (
        "_all_blocks",
        "_answer",
        "_complete",
        "_connection",
        "_deferred_before",
        "_dialect",
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
    )

    def __init__(
        self,
        connection: "Connection",
        dialect: Dialect,
        answer: Answer,
        call: Call,
        *,
        stream: bool,
        fault: str | None,
        blocks: list[int] | None,
    ) -> None:
        """`blocks`: the names of the blocks of the prompt with its answer behind it; None without a prefix cache."""
        server = connection.server
        style = server.settings.style
        if fault == "empty":
            answer.output_tokens, answer.parts = 0, ()
        prompt_blocks = blocks[: answer.prompt_tokens // BLOCK_TOKENS] if blocks is not None else None
        super().__init__(answer.prompt_tokens, answer.output_tokens or 1, prompt_blocks)
        self._all_blocks = blocks
        self._connection = connection
        self._dialect = dialect
        self._fault = fault
        self._read_ns = call.read_ns
        self._answer = answer
        self._encoder: StreamEncoder | None = None
        self._framing = "content-length"
        if stream and fault != "not-a-stream":
            # HTTP/1.0 knows no chunks.
            self._framing = "close" if call.version == "1.0" and style.framing == "chunked" else style.framing
            self._encoder = StreamEncoder(dialect.wording, style, answer, self._framing)
        self._keep_alive = call.keep_alive and self._framing != "close" and fault != "close-after-response"
        self._split: random.Random | None = server.cut_draws if server.settings.split_writes else None
        # The encoder, in the common case.
        self._plain: StreamEncoder | None = None
        if self._encoder is not None and self._encoder.plain and fault is None and self._split is None:
            self._plain = self._encoder

        self._event_ns = array("q")
        one_token_an_event = self._plain is not None and style.tokens_per_event == 1
        self._event_tokens: list[int] | None = None if one_token_an_event else []
        self._sent_tokens = 0
        self._first_byte_ns: int | None = None
        self._last_byte_ns: int | None = None
        self._deferred_before = connection.deferred_writes
        self._silent = fault == "stall-first-byte"
        self._held: list[tuple[bytes, int | None]] = []  # what `_put` was given during a silence
        self._struck = False  # the fault of the middle has happened
        self._complete = False  # everything was put, though it may still be held
        self._over = False

    def accepted(self) -> None:
        """The request is in the engine: what a server sends before there is any token."""
        # Known already unless it had to queue; a Content-Length binds what is told to what is known now.
        self._answer.cached_tokens = self.cached_tokens
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
        if encoder is not None and first > 0 and done < self.output_tokens:
            self._event_ns.append(self._connection.send(encoder.output(first, done - first)))
            if self._event_tokens is not None:
                self._event_tokens.append(done - first)
            return
        if self._over:  # ended earlier in the same tick
            return
        if first == 0:
            self._begin()
        if done == self.output_tokens:
            self._tell_times()
        if encoder is not None:
            self._emit_edge(encoder, first, done)
        else:
            self._emit_unusual(first, done - first)

    def broken_off(self, ended: str) -> None:
        """The connection is gone, or the server ends; `ended` is a key of truth.ENDED."""
        if not self._over:
            self._connection.server.cancel(self)
            self._log(ended)

    def _begin(self) -> None:
        """The first token is there: what was unknown while the request queued is known now."""
        now_ns = monotonic_ns()
        self._connection.server.tally.begun(self.prompt_tokens, now_ns - self.arrived_ns)
        if self._framing != "content-length" or self._encoder is None:
            self._answer.cached_tokens = self.cached_tokens
            admitted_ns = self.admitted_ns or self.arrived_ns
            self._answer.queue_ns = admitted_ns - self.arrived_ns
            self._answer.prefill_ns = now_ns - admitted_ns

    def _tell_times(self) -> None:
        if self._framing != "content-length" or self._encoder is None:
            answer = self._answer
            answer.decode_ns = monotonic_ns() - self.arrived_ns - answer.queue_ns - answer.prefill_ns

    def _emit_edge(self, encoder: StreamEncoder, first: int, done: int) -> None:
        """The first event or the last one, or both, with what goes out before it and behind it."""
        last = done == self.output_tokens
        data = encoder.output(first, done - first)
        if first == 0:
            data = encoder.late() + data
        if last:
            data += encoder.closing()
        sent_ns = self._connection.send(data)
        self._event_ns.append(sent_ns)
        if self._event_tokens is not None:
            self._event_tokens.append(done - first)
        if last:
            self._last_byte_ns = sent_ns
            self._finish("complete", self._keep_alive)

    def _emit_unusual(self, first: int, count: int) -> None:
        encoder = self._encoder
        last = self.tokens_done == self.output_tokens
        if encoder is None:
            if last:
                self._put_json()
            return
        late = encoder.late() if first == 0 else b""
        if self._fault != "empty":
            for data, tokens in encoder.pieces(first, count):
                self._put(late + data, tokens)
                late = b""
        self._put(late)
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
        answer = self._answer
        body = to_json(self._dialect.wording(self._connection.server.settings.style, answer).whole())
        data = encode.whole(200, "application/json", body, *fields)
        if self._fault in ("reset-mid-stream", "truncate"):
            self._put(data[: len(data) - len(data) // 4])
            self._break(reset=self._fault == "reset-mid-stream")
            return
        tokens = sum(part.end - part.first for part in answer.parts if part.kind != HIDDEN)
        self._put(data, tokens if tokens or embeds(answer) else None)
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
                self._put(encoder.error(ERROR_WORDS) if self._fault == "error-event" else encoder.end_of_body())
                self._connection.server.cancel(self)
                # Only chunks can end before their time and leave a connection that is of use.
                self._finish("fault", self._keep_alive and self._framing == "chunked")

    def _put(self, data: bytes, tokens: int | None = None) -> None:
        """Send `data`, which is an event with so many tokens (vectors have none), or with None no output at all; during
        a silence, hold it back."""
        if self._silent:
            self._held.append((data, tokens))
            return
        if not data:
            return
        began_ns, sent_ns = self._send(data, tokens)
        if self._first_byte_ns is None:
            self._first_byte_ns = began_ns
        self._last_byte_ns = sent_ns
        if tokens is not None:
            self._event_ns.append(sent_ns)
            if self._event_tokens is not None:
                self._event_tokens.append(tokens)

    def _send(self, data: bytes, tokens: int | None) -> tuple[int, int]:
        """Times just before the send of the first byte, and of the byte that ends the event."""
        connection = self._connection
        if self._split is None:
            sent_ns = connection.send(data)
            return sent_ns, sent_ns
        decisive = self._encoder.event_end(data) if self._encoder is not None and tokens else len(data) - 1
        began_ns = sent_ns = 0
        behind = 0
        for cut in [*encode.cuts(len(data), self._split), len(data)]:
            part_ns = connection.send(data[behind:cut])
            began_ns = began_ns or part_ns
            if behind <= decisive < cut:
                sent_ns = part_ns
            behind = cut
        return began_ns, sent_ns

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
        server = self._connection.server
        if self.admitted_ns is not None:
            self._count(ended)
        server.log.add(
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
                dialect=self._dialect.name,
                cached_tokens=self.cached_tokens,
            )
        )

    def _count(self, ended: str) -> None:
        """What the engine's counters and its prefix cache learn of the end."""
        server = self._connection.server
        reason = "abort" if ended != "complete" else "length" if self._answer.finish == "length" else "stop"
        tokens = min(self.tokens_done, self._answer.output_tokens)
        server.tally.ended(Ended(self.arrived_ns, self.admitted_ns or 0, self._event_ns, tokens, reason))
        cache = server.engine.prefix_cache
        if cache is not None and self._all_blocks is not None:
            cache.put(self._all_blocks[: (self.prompt_tokens + tokens) // BLOCK_TOKENS])
