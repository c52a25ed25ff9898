"""The machine: cores, kernel, clock source, limits. Facts for run.json, and what a worker sets for itself."""

import contextlib
import os
import platform
import resource
import socket
import sys
from pathlib import Path
from typing import Any, Final

PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>


def usable_cores() -> list[int]:
    """The CPUs that this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' worth of time the control groups of this process allow, the tightest of them; None without a quota."""
    quotas = []
    for folder in _control_groups(root, "cpu"):
        allowed, _, period = _line(folder / "cpu.max").partition(" ")
        if not allowed:  # version 1
            allowed, period = _line(folder / "cpu.cfs_quota_us"), _line(folder / "cpu.cfs_period_us")
        if allowed.isdigit() and period.isdigit() and int(period):
            quotas.append(int(allowed) / int(period))
    return min(quotas, default=None)


def memory_bytes(root: Path = Path("/")) -> int:
    """The memory that this process may use: the machine's, or less where a control group says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _control_groups(root, "memory"):
        allowed = _line(folder / "memory.max") or _line(folder / "memory.limit_in_bytes")
        if allowed.isdigit():
            limits.append(int(allowed))
    return min(limits)


def out_of_memory_kills(root: Path = Path("/")) -> int:
    """How many processes of this control group the kernel has killed for their memory so far."""
    kills = 0
    for folder in _control_groups(root, "memory"):
        told = _line(folder / "memory.events") or _line(folder / "memory.oom_control")
        kills += sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("oom_kill "))
    return kills


def throttled_ns(root: Path = Path("/")) -> int:
    """How long the CPU quota of the control groups has held their processes back so far, ns."""
    held_ns = 0
    for folder in _control_groups(root, "cpu"):
        for line in _line(folder / "cpu.stat").splitlines():
            name, _, value = line.partition(" ")
            held_ns += {"throttled_usec": 1000, "throttled_time": 1}.get(name, 0) * int(value)
    return held_ns


def resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not say."""
    pages = _line(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _control_groups(root: Path, controller: str) -> list[Path]:
    """The folders of the control groups that this process is in, from its own up, for version 2 or else version 1."""
    found = []
    for line in _line(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names == "" or controller in names.split(","):
            mount = root / "sys/fs/cgroup" / (controller if names else "")
            group = mount / path.lstrip("/")
            # In a container its own group is the root of the mount, whatever the path says.
            found += [folder for folder in (group, *group.parents) if folder.is_relative_to(mount) and folder.is_dir()]
    return found


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
        "memory_bytes": memory_bytes(),
        "cpu_quota": cpu_quota(),
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


# Beside a descriptor a connection: epoll, pipes, files, the interpreter's own.
SPARE_DESCRIPTORS: Final = 64


def most_connections() -> int:
    """How many connections a process here can hold."""
    return max(descriptor_limit() - SPARE_DESCRIPTORS, 1)


def raise_descriptor_limit() -> None:
    """Lift the soft limit on descriptors to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS refuses "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_240), hard))


def keep_memory_private() -> None:
    """No core file of this process, and no look at its environment by others: it holds a key."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":  # where cores go down a pipe (systemd-coredump) the limit does not count
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def step_back() -> None:
    """Have this process give way to others, for good: drawing a table takes some 10 ms, and the core may be a worker's too.

    Not SCHED_IDLE: on a shared core that was measured to hold up the worker for tens of ms where a nice process does not.
    """
    with contextlib.suppress(OSError):
        os.nice(19)


def has_ended(pid: int) -> bool:
    """Whether there is no such process any more. One that nobody has waited for yet has ended, where the system tells."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    state = _line(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return state[:1] == ["Z"]


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
