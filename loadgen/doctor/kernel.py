"""Whether the kernel stamps what arrives, and whether its stamps make sense: asked over a connection of our own."""

import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns, realtime_offset_ns
from loadgen.doctor import BAD, OK, WARN, Finding

SO_TIMESTAMPNS: Final = 35  # <asm-generic/socket.h>
TRIES: Final = 200

# The offset between the clocks is known to some 100 ns, on a machine that is busy worse: what is outside by less is sane.
SLACK_NS: Final = 20_000

PATIENCE_NS: Final = 500 * NS_PER_MS

Ping = tuple[int, int | None, int]
"""(just before the send, the kernel's stamp or None, just after the read), CLOCK_MONOTONIC ns."""


def stamps(ping: "Callable[[int], list[Ping]] | None" = None) -> Finding:
    """Each stamp lies between the send that caused it and the read that found it."""
    try:
        seen = (ping or pings)(TRIES)
    except OSError as error:
        todo = "Linux without a sandbox that hides it; --transport aiohttp stamps reads in the client"
        return Finding("kernel stamps", BAD, None, f"cannot be had: {error.strerror or error}", todo)
    stamped = [(sent_ns, stamp_ns, read_ns) for sent_ns, stamp_ns, read_ns in seen if stamp_ns is not None]
    if not stamped:
        todo = "Linux without a sandbox that hides them; until then each stamp holds the client's own delay"
        return Finding("kernel stamps", BAD, 0, f"none on {len(seen)} reads", todo)
    sane = sum(sent_ns - SLACK_NS <= stamp_ns <= read_ns + SLACK_NS for sent_ns, stamp_ns, read_ns in stamped)
    after_us = sorted((stamp_ns - sent_ns) / 1000 for sent_ns, stamp_ns, _ in stamped)
    words = (
        f"on {len(stamped)} of {len(seen)} reads, {sane} of them between send and read; "
        f"{after_us[len(after_us) // 2]:.1f} us after the send (median)"
    )
    if sane < 0.99 * len(stamped):
        todo = "is the wall clock being stepped just now? Otherwise --transport aiohttp, and a word to us"
        return Finding("kernel stamps", BAD, sane, words, todo)
    if len(stamped) < 0.99 * len(seen):
        return Finding("kernel stamps", WARN, len(stamped), words, "the others get the time of the read")
    return Finding("kernel stamps", OK, len(stamped), words)


def pings(count: int) -> list[Ping]:
    """So many bytes over loopback. OSError where the socket option is refused."""
    if sys.platform != "linux":
        raise OSError(0, f"{sys.platform} has none")
    found: list[Ping] = []
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as here:
        there, _ = listening.accept()
        with there:
            here.settimeout(5)
            here.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            offset_ns = realtime_offset_ns()
            patient_until_ns = monotonic_ns() + PATIENCE_NS
            while len(found) < count:
                sent_ns = monotonic_ns()
                there.send(b".")
                _, ancillary, *_ = here.recvmsg(1, 256)
                read_ns = monotonic_ns()
                stamp_ns = None
                for level, kind, data in ancillary:
                    if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= 16:
                        seconds, rest = struct.unpack_from("qq", data)
                        stamp_ns = seconds * NS_PER_S + rest - offset_ns
                # The kernel begins to stamp some ms after the first socket of the machine has asked for it.
                if stamp_ns is not None or found or read_ns > patient_until_ns:
                    found.append((sent_ns, stamp_ns, read_ns))
    return found
