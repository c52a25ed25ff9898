"""What nobody waits for: decoding, and writing the capture, in pieces, while the sockets are empty and nothing is due."""

from typing import Final

from loadgen.clock import monotonic_ns
from loadgen.worker.capture import CaptureWriter
from loadgen.worker.decoding import Decoder
from loadgen.worker.pacer import Pacer

# A piece is not begun when it would reach into the next due time; but so much may not gather, whatever is due.
MOST_WAITING: Final = 64

# A piece that took longer was held up by something else.
MOST_PIECE_NS: Final = 500_000

BUILD, DECODE = range(2)


class Chores:
    """The pieces of work for idle moments."""

    def __init__(self, decoder: Decoder, pacer: Pacer, *, gives_way: bool) -> None:
        self._decoder = decoder
        self._pacer = pacer
        self._gives_way = gives_way  # not where the read is the stamp, and waiting for the due time would delay it
        self._piece_ns = [0, 0]  # of each kind the longest of late: falls slowly, rises at once
        self.capture: CaptureWriter | None = None

    def do_one(self) -> bool:
        """One piece, or nothing for now if something is due too soon; False when nothing waits."""
        capture, waiting = self.capture, self._decoder.waiting
        is_writing = capture is not None and capture.is_writing
        if not is_writing and not waiting:
            return False
        kind = BUILD if is_writing else DECODE
        began_ns = monotonic_ns()
        if self._gives_way and self._pacer.due_ns - began_ns < self._piece_ns[kind] and waiting < MOST_WAITING:
            return True
        if is_writing and capture is not None:
            capture.step()
        else:
            self._decoder.decode_one()
        longest_ns = max(monotonic_ns() - began_ns, self._piece_ns[kind] - (self._piece_ns[kind] >> 4))
        self._piece_ns[kind] = min(longest_ns, MOST_PIECE_NS)
        return True
