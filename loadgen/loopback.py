"""Whether a host is this machine: the line between a test of one's own and load on somebody else."""

import ipaddress
import socket


def is_loopback(host: str) -> bool | None:
    """Whether every address of a host is this machine's loopback; None for a name that has none. Sends nothing to it."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return all(_is_here(str(address[0])) for *_, address in found)


def _is_here(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    # 0.0.0.0 is no address of another machine either: connecting to it ends up here.
    return any(one.is_loopback or one.is_unspecified for one in (address, mapped) if one is not None)
