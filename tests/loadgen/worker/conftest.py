import socket
import sys
from collections.abc import Iterator

import pytest

from loadgen.worker.connection import SO_TIMESTAMPNS


@pytest.fixture(scope="session", autouse=True)
def kernel_stamps() -> Iterator[None]:
    """Somebody wants stamps all the time: the kernel needs a moment to begin with them, which would fall into any test."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        yield


@pytest.fixture(scope="session")
def tls(authority):
    """A server's TLS settings that an ordinary client accepts once it trusts `authority`."""
    return authority.server_context("127.0.0.1", "localhost", "::1")
