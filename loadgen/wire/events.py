"""What all splitters give."""

from typing import NamedTuple


class Events(NamedTuple):
    """Events cut from a buffer."""

    payloads: list[bytes]
    """The data of each event, fields joined; an event without data is left out."""
    ends: list[int]
    """For each payload the offset in the buffer just behind what completed it."""
    consumed: int
    """Bytes of the buffer that are done with; the rest belongs to an event that is not whole yet."""
