"""The bytes of each request: one concatenation between the decision to send and the send."""

from collections.abc import Sequence
from typing import Final

import orjson

from loadgen.dialects.answer import Ask
from loadgen.dialects.dialect import Dialect
from loadgen.plan import PromptPool

# An odd number shuffles 0..2^k-1 (multiplication modulo 2^k is then a permutation); 2^64 / golden ratio, made odd,
# spreads neighbours far apart.
_SHUFFLE: Final = 0x9E3779B97F4A7C15

STAGE_SHIFT: Final = 32
"""request_id = stage << STAGE_SHIFT | number in the stage."""


class RequestMaker:
    """Makes the request with an id; the same id, seed and pool give the same bytes in any worker."""

    def __init__(self, pool: PromptPool, dialect: Dialect) -> None:
        self._head = pool.head
        self._talk = pool.talk
        self._body = dialect.body
        self._vocabulary = pool.vocabulary
        self._bits = (len(pool.vocabulary) - 1).bit_length()
        if len(pool.vocabulary) != 1 << self._bits:
            raise ValueError(f"the nonce vocabulary must hold a power of two of words, not {len(pool.vocabulary)}")
        self._nonce_words = pool.nonce_words
        self._modulus = 1 << (self._bits * pool.nonce_words)
        self._seed = pool.seed
        self._entries = [
            (b"%b\r\nContent-Length: %d\r\n\r\n%b" % (pool.head, self._length(before, after), before), after)
            for before, after in pool.bodies
        ]

    def _length(self, before: bytes, after: bytes) -> int:
        return len(before) + len(self.nonce(0)) + len(after)

    def nonce(self, request_id: int) -> bytes:
        """The words that open the prompt of this request; another for each id below vocabulary ** nonce_words."""
        # The high bits of the product are the well-mixed ones and go first: neighbours differ from the first word on.
        mixed = (request_id * _SHUFFLE + self._seed) % self._modulus
        words = []
        for _ in range(self._nonce_words):
            words.append(self._vocabulary[mixed & ((1 << self._bits) - 1)])
            mixed >>= self._bits
        words.reverse()
        return b"".join(words)

    def request(self, request_id: int) -> bytes:
        """Head and body of one request."""
        before, after = self._entries[request_id % len(self._entries)]
        return before + self.nonce(request_id) + after

    # sessions: turn 0 is a request as above, a later one quotes what was said before

    def prompt(self, request_id: int) -> str:
        """What the user says in the request with this id."""
        assert self._talk is not None
        return self.nonce(request_id).decode() + self._talk.prompts[request_id % len(self._talk.prompts)]

    def answer(self, request_id: int) -> str:
        """What stands in the history for the answer to this request where the real one is not quoted."""
        assert self._talk is not None
        return self._talk.answers[request_id % len(self._talk.answers)]

    def turn(self, request_id: int, history: Sequence[tuple[str, str]]) -> bytes:
        """Head and body of a request behind others: `history` holds (what was said, what was answered)."""
        talk = self._talk
        assert talk is not None
        ask = Ask(
            model=talk.model,
            prompt=self.prompt(request_id),
            output_tokens=talk.output_tokens,
            ignore_eos=talk.ignore_eos,
            system=talk.system,
            history=tuple(history),
        )
        body = orjson.dumps(self._body(ask))
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
