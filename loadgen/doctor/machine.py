"""What /proc and /sys say of this machine, judged as a place to measure from. `root` is /, or a tree of a test.

What a system does not tell is no finding against it: virtual machines have no governor, containers no interrupts.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from loadgen import host
from loadgen.doctor import BAD, OK, WARN, Finding

# A clock read takes some 20 ns with these; with the others it is a system call, or an access to a device, of a microsecond.
FAST_CLOCKS: Final = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")

MOST_STEAL_SHARE: Final = 0.005
BAD_STEAL_SHARE: Final = 0.05
MOST_PRESSURE: Final = 5.0
BAD_PRESSURE: Final = 25.0
"""Per cent of the last 10 s in which something waited for a CPU."""

LEAST_FREQUENCY_SHARE: Final = 0.7
LEAST_PORTS: Final = 16_384
LEAST_DESCRIPTORS: Final = 16_384
BAD_DESCRIPTORS: Final = 1_024
LEAST_BACKLOG: Final = 1_024
MOST_SWAPPED_BYTES: Final = 64 << 20


class CpuTimes(NamedTuple):
    """Ticks since the machine began, over all CPUs."""

    total: int
    stolen: int


def cpu_times(root: Path = Path("/")) -> CpuTimes | None:
    """The first line of /proc/stat; None where there is none."""
    numbers = [int(word) for word in _text(root / "proc/stat").partition("\n")[0].split()[1:] if word.isdigit()]
    # user nice system idle iowait irq softirq steal; guests are in user already.
    return CpuTimes(sum(numbers[:8]), numbers[7]) if len(numbers) >= 8 else None


def findings(cores: list[int], root: Path = Path("/"), before: CpuTimes | None = None) -> list[Finding]:
    """Everything that can be read, for a load generator that may use these cores.

    `before` is an earlier reading of the CPU times: steal is then that since.
    """
    asked: Iterable[Callable[[], Finding | None]] = (
        lambda: usable_cores(cores),
        lambda: siblings(cores, root),
        lambda: isolated(cores, root),
        lambda: quota(cores, root),
        lambda: throttling(root),
        lambda: steal(root, before),
        lambda: pressure(root),
        lambda: clock_source(root),
        lambda: governor(cores, root),
        lambda: frequency(cores, root),
        lambda: interrupts(cores, root),
        lambda: ports(root),
        lambda: descriptors(),
        lambda: backlog(root),
        lambda: swap(root),
    )
    return [finding for ask in asked if (finding := ask()) is not None]


def usable_cores(cores: list[int]) -> Finding:
    """A worker and whatever else runs need a core each."""
    words = f"{len(cores)} ({ranges(cores)})"
    if len(cores) < 2:
        return Finding("cores", WARN, len(cores), words, "a second core: one for a worker, one for the rest")
    return Finding("cores", OK, len(cores), words)


def physical_cores(cores: list[int], root: Path = Path("/")) -> list[int]:
    """One CPU of each physical core: the first of its siblings among these."""
    chosen, seen = [], set()
    for cpu in cores:
        told = _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        group = frozenset(cpu_list(told)) or frozenset({cpu})
        if group not in seen:
            chosen.append(cpu)
        seen.add(group)
    return chosen


def siblings(cores: list[int], root: Path) -> Finding:
    """Two workers on one physical core slow each other down."""
    physical = physical_cores(cores, root)
    if len(physical) == len(cores):
        return Finding("smt siblings", OK, 0, "no two usable CPUs share a core")
    return Finding(
        "smt siblings",
        WARN,
        len(cores) - len(physical),
        f"{len(cores)} CPUs are {len(physical)} cores: siblings share a core's units",
        f"--cpus {ranges(physical)}: one CPU a core",
    )


def isolated(cores: list[int], root: Path) -> Finding | None:
    """Cores that the scheduler leaves alone keep the tail of the lateness short."""
    path = root / "sys/devices/system/cpu/isolated"
    if not path.exists():
        return None
    apart = cpu_list(_text(path))
    if not apart:
        return Finding("isolated cores", OK, [], "none: fine but for --spin and the last tenth of a per cent")
    usable = [cpu for cpu in apart if cpu in cores]
    if not usable:
        words = f"{ranges(apart)}, none of which this process may use"
        return Finding(
            "isolated cores", WARN, apart, words, f"start with taskset -c {ranges(sorted({*cores, *apart}))}"
        )
    return Finding(
        "isolated cores", OK, apart, f"{ranges(apart)}: give them to the workers with --cpus {ranges(usable)}"
    )


def quota(cores: list[int], root: Path) -> Finding:
    """A quota stops all processes for the rest of a period once it is used up."""
    allowed = host.cpu_quota(root)
    if allowed is None:
        return Finding("cpu quota", OK, None, "none")
    if allowed >= len(cores):
        return Finding("cpu quota", OK, allowed, f"{allowed:g} CPUs' time for {len(cores)} CPUs")
    level = BAD if allowed < 1 else WARN
    words = f"{allowed:g} CPUs' time for {len(cores)} CPUs: whoever uses it up stands still until the period ends"
    return Finding(
        "cpu quota", level, allowed, words, "a higher quota (cpu.max, docker --cpus), or a cpuset in its place"
    )


def throttling(root: Path) -> Finding | None:
    """Whether a quota has bitten already."""
    if host.cpu_quota(root) is None:
        return None
    held_ms = host.throttled_ns(root) / 1e6
    words = f"held back for {held_ms:,.0f} ms so far"
    return Finding("throttled", WARN if held_ms else OK, held_ms, words, "as for the quota" if held_ms else "")


def steal(root: Path, before: CpuTimes | None) -> Finding | None:
    """Time that the hypervisor gave to others while something here wanted to run."""
    now = cpu_times(root)
    if now is None:
        return None
    since = before if before is not None and now.total > before.total else CpuTimes(0, 0)
    share = (now.stolen - since.stolen) / max(now.total - since.total, 1)
    when = "now" if since.total else "since the machine began"
    level = OK if share <= MOST_STEAL_SHARE else WARN if share <= BAD_STEAL_SHARE else BAD
    todo = (
        "" if level == OK else "a machine with CPUs of its own: what is stolen is in every time that is measured here"
    )
    return Finding("steal", level, share, f"{share:.2%} of the CPU time {when}", todo)


def pressure(root: Path) -> Finding | None:
    """How often something waits for a CPU (PSI)."""
    told = re.search(r"some avg10=([0-9.]+)", _text(root / "proc/pressure/cpu"))
    if told is None:
        return None
    waiting = float(told[1])
    level = OK if waiting <= MOST_PRESSURE else WARN if waiting <= BAD_PRESSURE else BAD
    todo = "" if level == OK else "end what else runs here: a worker that waits for its core sends late"
    return Finding("cpu pressure", level, waiting, f"{waiting:.2f}% of the last 10 s something waited for a CPU", todo)


def clock_source(root: Path) -> Finding | None:
    """What the kernel's clocks are made of."""
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if not source:
        return None
    if source in FAST_CLOCKS:
        return Finding("clock source", OK, source, source)
    return Finding(
        "clock source", BAD, source, f"{source}: slow to read", "clocksource=tsc on the kernel's command line"
    )


def governor(cores: list[int], root: Path) -> Finding | None:
    """Whether a core has to wake up and speed up first."""
    told = {_text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor") for cpu in cores} - {""}
    if not told:
        return None
    words = ", ".join(sorted(told))
    if told == {"performance"}:
        return Finding("governor", OK, words, words)
    todo = "cpupower frequency-set -g performance: an idle core is late by the time it takes to speed up"
    return Finding("governor", WARN, words, words, todo)


def frequency(cores: list[int], root: Path) -> Finding | None:
    """The slowest of the cores against what it could do."""
    shares = []
    for cpu in cores:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        now, most = _text(folder / "scaling_cur_freq"), _text(folder / "cpuinfo_max_freq")
        if now.isdigit() and most.isdigit() and int(most):
            shares.append((int(now) / int(most), int(now)))
    if not shares:
        return None
    share, khz = min(shares)
    words = f"{khz / 1e6:.2f} GHz, {share:.0%} of the most"
    if share >= LEAST_FREQUENCY_SHARE:
        return Finding("frequency", OK, share, words)
    return Finding(
        "frequency", WARN, share, words, "see the governor; on battery or when hot it stays low whatever it says"
    )


def interrupts(cores: list[int], root: Path) -> Finding | None:
    """Where the network card interrupts: on a worker's core it takes time that the worker does not see."""
    found: set[int] = set()
    for number in _network_interrupts(root):
        found |= set(cpu_list(_text(root / f"proc/irq/{number}/smp_affinity_list")))
    if not found:
        return None
    words = f"on CPU {ranges(sorted(found))}"
    free = [cpu for cpu in cores if cpu not in found]
    if free == cores or len(cores) < 2:
        return Finding("network interrupts", OK, sorted(found), words)
    if free:
        todo = f"--cpus {ranges(free)}, for endpoints that are not on this machine"
        return Finding("network interrupts", WARN, sorted(found), f"{words}, of those that workers may use", todo)
    todo = f"keep CPU {cores[0]} for them: echo {cores[0]} > /proc/irq/N/smp_affinity_list; stop irqbalance"
    return Finding("network interrupts", WARN, sorted(found), f"{words}: every core that workers may use", todo)


def _network_interrupts(root: Path) -> list[int]:
    """The numbers of those that a network card has; its name, or that of its driver's queues, stands in the line."""
    folder = root / "sys/class/net"
    cards = {path.name for path in _files(folder)} - {"lo"}
    found = {
        int(path.name) for card in cards for path in _files(folder / card / "device/msi_irqs") if path.name.isdigit()
    }
    # virtio names the device, and not the card: virtio0-input.0
    cards |= {(folder / card / "device").resolve().name for card in cards if (folder / card / "device").exists()}
    for line in _text(root / "proc/interrupts").splitlines():
        number, _, rest = line.strip().partition(":")
        names = {re.split("[-@.]", word)[0] for word in re.split(r"[\s,]+", rest)}
        if number.isdigit() and names & cards:
            found.add(int(number))
    return sorted(found)


def ports(root: Path) -> Finding | None:
    """How many connections to one address and port there can be."""
    words = _text(root / "proc/sys/net/ipv4/ip_local_port_range").split()
    if len(words) != 2:
        return None
    count = int(words[1]) - int(words[0]) + 1
    told = f"{count:,} ({words[0]} to {words[1]}): so many connections to one address"
    if count >= LEAST_PORTS:
        return Finding("ports", OK, count, told)
    return Finding("ports", WARN, count, told, "sysctl net.ipv4.ip_local_port_range='1024 65535'")


def descriptors() -> Finding:
    """How many connections a worker can have."""
    limit = host.descriptor_limit()
    if limit < 0:
        return Finding("descriptors", OK, None, "no limit")
    words = f"{limit:,} a process: so many connections a worker, but for a few"
    level = OK if limit >= LEAST_DESCRIPTORS else WARN if limit >= BAD_DESCRIPTORS else BAD
    todo = "" if level == OK else "ulimit -Hn 65536, or LimitNOFILE= of the service"
    return Finding("descriptors", level, limit, words, todo)


def backlog(root: Path) -> Finding | None:
    """How many connections may wait to be accepted: of an endpoint on this machine, such as the simulated one."""
    told = _text(root / "proc/sys/net/core/somaxconn")
    if not told.isdigit():
        return None
    words = f"{int(told):,} connections may wait for an endpoint on this machine"
    if int(told) >= LEAST_BACKLOG:
        return Finding("somaxconn", OK, int(told), words)
    return Finding("somaxconn", WARN, int(told), words, "sysctl net.core.somaxconn=4096")


def swap(root: Path) -> Finding | None:
    """Memory that was written out has to be read again, which takes milliseconds."""
    told = re.findall(r"^(Swap\w+): +([0-9]+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    sizes = {name: int(size) << 10 for name, size in told}
    if "SwapTotal" not in sizes:
        return None
    used = sizes["SwapTotal"] - sizes.get("SwapFree", 0)
    if not sizes["SwapTotal"]:
        return Finding("swap", OK, 0, "none")
    words = f"{used / 1e6:,.0f} of {sizes['SwapTotal'] / 1e6:,.0f} MB used"
    if used <= MOST_SWAPPED_BYTES:
        return Finding("swap", OK, used, words)
    return Finding("swap", WARN, used, words, "free memory, then swapoff -a for as long as is measured")


def cpu_list(text: str) -> list[int]:
    """ "0-2,5" -> 0, 1, 2, 5; nothing for what is no such list."""
    found: list[int] = []
    for part in text.strip().split(","):
        written = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip())
        if written is not None:
            found += range(int(written[1]), int(written[2] or written[1]) + 1)
    return found


def ranges(cpus: list[int]) -> str:
    """The other way round."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
