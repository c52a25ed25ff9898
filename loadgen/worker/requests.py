"""The bytes of each request: one concatenation between the decision to send and the send."""

from collections.abc import Sequence
from typing import Final

import orjson

from loadgen.dialects.answer import Ask
from loadgen.dialects.dialect import EVENT_LINES, Dialect
from loadgen.nonces import Nonces
from loadgen.plan import PromptPool

STAGE_SHIFT: Final = 32
"""request_id = stage << STAGE_SHIFT | number in the stage."""


def whole(head: bytes, body: bytes) -> bytes:
    """A request of a head without its end and a body."""
    return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


class RequestMaker:
    """Makes the request of a target with an id; the same id, seed and pool give the same bytes in any worker.

    `head` is that of the URL it goes to, as of plan.Route.
    """

    def __init__(self, pool: PromptPool, dialect: Dialect) -> None:
        self.wanted_input_tokens = pool.wanted_input_tokens
        self.wanted_output_tokens = pool.wanted_output_tokens
        self._talk = pool.talk
        self.body = dialect.body
        """An Ask -> its JSON."""
        self.event_lines = EVENT_LINES[dialect.framing]
        self.nonce = Nonces(pool.vocabulary, pool.nonce_words, pool.seed).nonce
        self._entries = [
            (b"\r\nContent-Length: %d\r\n\r\n%b" % (self._length(before, after), before), after)
            for before, after in pool.bodies
        ]

    def _length(self, before: bytes, after: bytes) -> int:
        return len(before) + len(self.nonce(0)) + len(after)

    def request(self, head: bytes, request_id: int) -> bytes:
        """Head and body of one request."""
        before, after = self._entries[request_id % len(self._entries)]
        return b"".join((head, before, self.nonce(request_id), after))

    # sessions: turn 0 is a request as above, a later one quotes what was said before

    def prompt(self, request_id: int) -> str:
        """What the user says in the request with this id."""
        assert self._talk is not None
        return self.nonce(request_id).decode() + self._talk.prompts[request_id % len(self._talk.prompts)]

    def answer(self, request_id: int) -> str:
        """What stands in the history for the answer to this request where the real one is not quoted."""
        assert self._talk is not None
        return self._talk.answers[request_id % len(self._talk.answers)]

    def turn(self, head: bytes, request_id: int, history: Sequence[tuple[str, str]]) -> bytes:
        """Head and body of a request behind others: `history` holds (what was said, what was answered)."""
        talk = self._talk
        assert talk is not None
        first_id = request_id - len(history)
        ask = Ask(
            model=talk.model,
            shown=talk.images[first_id % len(talk.images)] if talk.images else (),
            prompt=self.prompt(request_id),
            output_tokens=talk.output_tokens,
            ignore_eos=talk.ignore_eos,
            system=talk.system,
            history=tuple(history),
        )
        return whole(head, orjson.dumps(self.body(ask)))
