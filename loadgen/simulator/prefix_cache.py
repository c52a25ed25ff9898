"""Which prompts the engine has seen before: blocks of tokens, found by everything that stands before them.

As in vLLM: a block is BLOCK_TOKENS tokens and is known by itself and all blocks before it; a prompt's last token is always
computed; the blocks that were used longest ago go first. Blocks are put when their sequence is admitted, because the
prefill of whoever comes behind begins after its own, and an answer's when it has ended.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Final

BLOCK_TOKENS: Final = 16


def blocks_of(tokens: Iterable[Hashable], salt: str = "") -> list[int]:
    """The names of the whole blocks of `tokens`, in order; those of two salts have none in common."""
    names: list[int] = []
    rest = iter(tokens)
    name = hash(salt)
    while len(block := tuple(islice(rest, BLOCK_TOKENS))) == BLOCK_TOKENS:
        name = hash((name, block))
        names.append(name)
    return names


class PrefixCache:
    """Holds `capacity_tokens`, in whole blocks. `queried_tokens` and `hit_tokens` count over its life."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity_blocks = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.queried_tokens = 0
        self.hit_tokens = 0

    def take(self, blocks: list[int], prompt_tokens: int) -> int:
        """How many of a prompt's tokens are cached; all its blocks are in the cache from then on."""
        most = max(prompt_tokens - 1, 0) // BLOCK_TOKENS
        cached = 0
        while cached < min(most, len(blocks)) and blocks[cached] in self._blocks:
            cached += 1
        self.queried_tokens += prompt_tokens
        self.hit_tokens += cached * BLOCK_TOKENS
        self.put(blocks)
        return cached * BLOCK_TOKENS

    def put(self, blocks: list[int]) -> None:
        """Keep those blocks, as the ones used last."""
        held = self._blocks
        # From the end: of a prompt that does not fit, the beginning stays, without which the rest is of no use.
        for name in reversed(blocks[: self._capacity_blocks]):
            held[name] = None
            held.move_to_end(name)
        while len(held) > self._capacity_blocks:
            held.popitem(last=False)

    def clear(self) -> None:
        """Forget every block."""
        self._blocks.clear()
