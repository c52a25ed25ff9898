"""When requests reach a port of this machine: kernel stamps of the packets that begin one (Linux, needs CAP_NET_RAW).

A server stamps a request when it comes to it: two that are closer than its own work on one are told as further apart. The
tap stands before the server, so it tells of the load alone.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from loadgen.clock import NS_PER_S, realtime_offset_ns

ETH_P_IP: Final = 0x0800
SO_TIMESTAMPNS: Final = 35
ETHERNET_BYTES: Final = 14
BUFFER_BYTES: Final = 1 << 25
LOOK_S: Final = 0.1


class Tap:
    """Notes the requests that come to a port, in a thread on a core of its own choice."""

    def __init__(self, port: int, core: int) -> None:
        self._port = port
        self._core = core
        self._stamps_ns: list[int] = []
        self._over = False
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self._wire.bind(("lo", ETH_P_IP))
        self._wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._wire.settimeout(LOOK_S)
        self._offset_ns = realtime_offset_ns()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Monotonic ns of all that came, ascending."""
        self._over = True
        self._thread.join()
        self._wire.close()
        return np.sort(np.array(self._stamps_ns, np.int64)) - self._offset_ns

    def _read(self) -> None:
        os.sched_setaffinity(0, {self._core})
        while not self._over:
            try:
                packet, told, _, (_, _, kind, *_) = self._wire.recvmsg(256, 64)
            except TimeoutError:
                continue
            if kind != socket.PACKET_HOST:  # the loopback shows each packet twice
                continue
            tcp = ETHERNET_BYTES + (packet[ETHERNET_BYTES] & 15) * 4
            if int.from_bytes(packet[tcp + 2 : tcp + 4], "big") != self._port:
                continue
            if packet[tcp + (packet[tcp + 12] >> 4) * 4 :].startswith(b"POST "):
                seconds, ns = struct.unpack("qq", told[0][2])
                self._stamps_ns.append(seconds * NS_PER_S + ns)


@contextmanager
def tapped(port: int, core: int) -> Iterator[Tap]:
    """A tap that is closed when the block ends."""
    tap = Tap(port, core)
    try:
        yield tap
    finally:
        tap.close()
