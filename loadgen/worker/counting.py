"""Output tokens by a local tokenizer, for responses whose server does not count them.

A thread that gives way encodes each text when its response has been decoded; the tokenizer lets go of the interpreter's lock
meanwhile. Texts are only kept as long as it looks as if the server sends no usage.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from loadgen.tokens import Tokenizer
from loadgen.worker.exchange import Exchange

CONVINCING: Final = 8
"""Responses in a row with usage, from where on no text is kept any more."""


class OutputCounter:
    """Hands exchanges back to `on_counted`, in the loop, with `counted_tokens` set."""

    def __init__(self, tokenizer: Tokenizer, on_counted: Callable[[Exchange], None], targets: int = 1) -> None:
        self._tokenizer = tokenizer
        self._on_counted = on_counted
        self._thread = ThreadPoolExecutor(1, initializer=_give_way)
        self._loop = asyncio.get_running_loop()
        self._with_usage = [0] * targets
        self.pending = 0

    def is_wanted(self, target: int) -> bool:
        """Whether the texts of new requests to this target should be kept."""
        return self._with_usage[target] < CONVINCING

    def takes(self, exchange: Exchange) -> bool:
        """Count a decoded exchange, if there is something to count; then it comes back later, and True says so."""
        if exchange.answer.output_tokens is not None:
            self._with_usage[exchange.target] += 1
            return False
        if not exchange.kinds or exchange.texts is None:
            return False
        if exchange.error is None:
            self._with_usage[exchange.target] = 0
        self.pending += 1
        self._thread.submit(self._count, exchange)
        return True

    def close(self) -> None:
        """Count what is left, here and now."""
        self._thread.shutdown(wait=True)

    def _count(self, exchange: Exchange) -> None:
        texts = exchange.texts or []
        try:
            # What is no content has no text here; an event of it is taken for a token.
            exchange.counted_tokens = self._tokenizer.count("".join(texts)) + len(exchange.kinds) - len(texts)
        finally:
            self._loop.call_soon_threadsafe(self._back, exchange)

    def _back(self, exchange: Exchange) -> None:
        self.pending -= 1
        self._on_counted(exchange)


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere a thread's number is no process's, or another's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
