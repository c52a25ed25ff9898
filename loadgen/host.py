"""The machine: cores, kernel, clock source, limits. Facts for run.json, and what a worker sets for itself."""

import contextlib
import os
import platform
import resource
import socket
from pathlib import Path
from typing import Any


def usable_cores() -> list[int]:
    """The CPUs that this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def clock_source() -> str:
    """What the kernel's clocks are made of ("tsc" is the fast and steady one), or "unknown"."""
    return _line(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")) or "unknown"


def facts() -> dict[str, Any]:
    """What run.json says of the machine."""
    return {
        "name": socket.gethostname(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "clock_source": clock_source(),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor's own name, or the architecture's."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def ephemeral_ports() -> int | None:
    """How many connections to one address and port there can be; None where the system does not say."""
    first, _, last = _line(Path("/proc/sys/net/ipv4/ip_local_port_range")).partition("\t")
    return int(last) - int(first) + 1 if first.isdigit() and last.isdigit() else None


def descriptor_limit() -> int:
    """How many descriptors a process here may have at most."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_descriptor_limit() -> None:
    """Lift the soft limit on descriptors to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS refuses "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_240), hard))


def step_back() -> None:
    """Have this process give way to others, for good: drawing a table takes some 10 ms, and the core may be a worker's too.

    Not SCHED_IDLE: on a shared core that was measured to hold up the worker for tens of ms where a nice process does not.
    """
    with contextlib.suppress(OSError):
        os.nice(19)


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
