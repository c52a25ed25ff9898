"""The few words that open a prompt and make it unlike any other of the run, so that a prefix cache finds nothing."""

from collections.abc import Sequence
from typing import Final

# An odd number shuffles 0..2^k-1 (multiplication modulo 2^k is then a permutation); 2^64 / golden ratio, made odd,
# spreads neighbours far apart.
_SHUFFLE: Final = 0x9E3779B97F4A7C15


class Nonces:
    """`words` words out of `vocabulary` for each request id; another for each id below len(vocabulary) ** words."""

    def __init__(self, vocabulary: Sequence[bytes], words: int, seed: int) -> None:
        self._vocabulary = vocabulary
        self._bits = (len(vocabulary) - 1).bit_length()
        if len(vocabulary) != 1 << self._bits:
            raise ValueError(f"the nonce vocabulary must hold a power of two of words, not {len(vocabulary)}")
        self._words = words
        self._modulus = 1 << (self._bits * words)
        self._seed = seed

    def nonce(self, request_id: int) -> bytes:
        """The words that open the prompt of this request, a space behind each."""
        # The high bits of the product are the well-mixed ones and go first: neighbours differ from the first word on.
        mixed = (request_id * _SHUFFLE + self._seed) % self._modulus
        words = []
        for _ in range(self._words):
            words.append(self._vocabulary[mixed & ((1 << self._bits) - 1)])
            mixed >>= self._bits
        words.reverse()
        return b"".join(words)
