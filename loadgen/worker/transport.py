"""What the drive asks of a transport; there are two: the kernel's stamps, and aiohttp's reach."""

from collections.abc import Callable, Sequence
from typing import Protocol

from loadgen.worker.exchange import Exchange


class Transport(Protocol):
    """Connections in numbered slots, one exchange at a time on each."""

    stamp_source: str
    """"kernel" or "read": what the stamps are meant to be."""
    reads: int
    reopened: int
    """Kept-alive connections found closed by the server, and opened anew."""

    on_end: Callable[[Exchange], None]
    """Called once for each submitted exchange, when `ended` is set; may submit the next at once."""
    on_segment: Callable[[Exchange], None]
    """Called when an exchange has new segments to decode; after on_end for the last of them."""
    decode_one: Callable[[], bool]
    """For the transport to call in its idle moments: does one piece of what waits, True while more may wait."""

    decode_now: Callable[[Exchange], int]
    """For the transport to call where a user leaves after so many tokens: decodes what has come, gives the tokens so far."""

    decoded_bytes: Callable[[], int]
    """For the transport to call: how much of what it has handed over is decoded. It reads no more while much waits."""

    @property
    def slots(self) -> int:
        """How many slots there are, connected or not."""

    def add_slot(self, origin: int) -> int:
        """One more slot, not connected; gives its number."""

    def origin(self, slot: int) -> int:
        """What the slot is, or will be, connected to: a place in WorkerPlan.origins."""

    def move(self, slot: int, origin: int) -> None:
        """Let an idle slot belong to an origin; closed if it was connected to another."""

    def is_open(self, slot: int) -> bool:
        """Whether an idle slot has a connection, as far as is known here."""

    def prepare(self, slot: int, on_prepared: Callable[[int], None]) -> None:
        """Connect an idle slot beside everything else; `on_prepared(slot)` when that has succeeded or failed."""

    def wake(self) -> None:
        """Have a slice of work done soon."""

    def poll(self) -> None:
        """One look at the sockets and a slice of work: for a worker that never sleeps."""

    async def open(self, wanted: Sequence[int]) -> None:
        """Have so many slots of each origin connected; what cannot be connected is left for submit to try and report."""

    def submit(self, exchange: Exchange) -> None:
        """Send the exchange on its slot's connection, connecting first where there is none."""

    def abort(self, exchange: Exchange, error: str, words: str = "") -> None:
        """End an exchange now with this error class; its connection is closed."""

    def in_flight(self) -> list[Exchange]:
        """The exchanges that have not ended."""

    def close(self) -> None:
        """Close every connection."""
