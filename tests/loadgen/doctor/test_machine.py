"""What is found in trees of /proc and /sys: good machines, bad ones, and those that tell nothing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.doctor import BAD, OK, WARN, Finding, worst
from loadgen.doctor.machine import CpuTimes, cpu_list, cpu_times, findings, physical_cores, ranges

CORES = [0, 1, 2, 3]
CPU = "sys/devices/system/cpu"

GOOD = {
    "proc/stat": "cpu  1000 0 500 8000 0 0 10 0 0 0\ncpu0 1 2 3 4\n",
    "proc/pressure/cpu": "some avg10=0.40 avg60=0.10 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/meminfo": "MemTotal:  8000 kB\nSwapTotal:       0 kB\nSwapFree:        0 kB\n",
    "proc/self/cgroup": "0::/\n",
    "proc/interrupts": "           CPU0       CPU1\n 24:   5   6  PCI-MSI 1  eth0-rx-0\n 25:  5  6  PCI-MSI 2  nvme0q1\n",
    "proc/irq/24/smp_affinity_list": "7\n",
    "proc/irq/25/smp_affinity_list": "0-3\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/sys/net/core/somaxconn": "4096\n",
    "sys/class/net/eth0/mtu": "1500\n",
    "sys/class/net/lo/mtu": "65536\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    f"{CPU}/isolated": "\n",
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu}\n" for cpu in CORES},
    **{f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "performance\n" for cpu in CORES},
    **{f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq": "3400000\n" for cpu in CORES},
    **{f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "3500000\n" for cpu in CORES},
}


def found(root: Path, cores: list[int] = CORES, before: CpuTimes | None = None) -> dict[str, Finding]:
    told = findings(cores, root, before)
    names = [finding.name for finding in told]
    assert len(set(names)) == len(names)
    return {finding.name: finding for finding in told}


def test_a_good_machine_has_nothing_to_do(tree):
    told = found(tree(GOOD))
    assert {
        name: finding.words for name, finding in told.items() if finding.level != OK and name != "descriptors"
    } == {}
    assert {"cores", "smt siblings", "isolated cores", "cpu quota", "steal", "cpu pressure", "clock source", "governor",
            "frequency", "network interrupts", "ports", "descriptors", "somaxconn", "swap"} == told.keys()  # fmt: skip


def test_a_machine_that_tells_nothing_is_not_held_guilty(tree):
    told = found(tree({}))
    assert {"cores", "smt siblings", "cpu quota", "descriptors"} == told.keys()
    assert worst([finding for name, finding in told.items() if name != "descriptors"]) == OK


@pytest.mark.parametrize(
    ("name", "level", "value", "words", "files"),
    [
        ("clock source", BAD, "hpet", "slow to read",
         {"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n"}),
        ("governor", WARN, "performance, powersave", "powersave", {f"{CPU}/cpu2/cpufreq/scaling_governor": "powersave\n"}),
        ("frequency", WARN, pytest.approx(0.3428, rel=1e-3), "1.20 GHz, 34%",
         {f"{CPU}/cpu3/cpufreq/scaling_cur_freq": "1200000\n"}),
        ("smt siblings", WARN, 1, "4 CPUs are 3 cores",
         {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": "1,3\n" for cpu in (1, 3)}),
        ("isolated cores", OK, [2, 3], "--cpus 2-3", {f"{CPU}/isolated": "2-3\n"}),
        ("isolated cores", WARN, [6, 7], "none of which", {f"{CPU}/isolated": "6-7\n"}),
        ("cpu quota", WARN, 1.5, "1.5 CPUs' time for 4 CPUs", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}),
        ("cpu quota", BAD, 0.5, "0.5 CPUs' time", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}),
        ("cpu quota", OK, 8.0, "8 CPUs' time", {"sys/fs/cgroup/cpu.max": "800000 100000\n"}),
        ("throttled", WARN, 250.0, "250 ms",
         {"sys/fs/cgroup/cpu.max": "800000 100000\n", "sys/fs/cgroup/cpu.stat": "throttled_usec 250000\n"}),
        ("steal", WARN, 0.02, "2.00% of the CPU time since", {"proc/stat": "cpu  490 0 0 490 0 0 0 20 0 0\n"}),
        ("steal", BAD, 0.1, "10.00%", {"proc/stat": "cpu  450 0 0 450 0 0 0 100 0 0\n"}),
        ("cpu pressure", WARN, 12.5, "12.50% of", {"proc/pressure/cpu": "some avg10=12.50 avg60=0.1 avg300=0 total=1\n"}),
        ("cpu pressure", BAD, 60.0, "60.00% of", {"proc/pressure/cpu": "some avg10=60.00 avg60=0.1 avg300=0 total=1\n"}),
        ("network interrupts", WARN, [0, 1], "on CPU 0-1, of those", {"proc/irq/24/smp_affinity_list": "0-1\n"}),
        ("network interrupts", WARN, CORES, "every core", {"proc/irq/24/smp_affinity_list": "0-3\n"}),
        ("ports", WARN, 1000, "1,000 (60000 to 60999)", {"proc/sys/net/ipv4/ip_local_port_range": "60000\t60999\n"}),
        ("somaxconn", WARN, 128, "128", {"proc/sys/net/core/somaxconn": "128\n"}),
        ("swap", WARN, 1024 * 200_000, "205 of 307 MB used",
         {"proc/meminfo": "SwapTotal: 300000 kB\nSwapFree: 100000 kB\n"}),
        ("swap", OK, 0, "0 of 307 MB used", {"proc/meminfo": "SwapTotal: 300000 kB\nSwapFree: 300000 kB\n"}),
    ],
)  # fmt: skip
def test_each_fault_is_found_with_its_number_and_what_to_do(tree, name, level, value, words, files):
    finding = found(tree(GOOD, files))[name]
    assert (finding.level, finding.value) == (level, value)
    assert words in finding.words
    assert bool(finding.todo) == (level != OK)


def test_steal_is_that_of_now_where_it_was_looked_at_before(tree):
    root = tree(GOOD, {"proc/stat": "cpu  5000 0 0 4000 0 0 0 1000 0 0\n"})
    assert found(root)["steal"].level == BAD
    told = found(root, before=CpuTimes(9000, 1000))["steal"]
    assert (told.level, told.value) == (OK, 0.0)
    assert "now" in told.words


def test_one_core_is_too_few(tree):
    told = found(tree(GOOD), [0])
    assert told["cores"].level == WARN
    assert told["network interrupts"].level == OK


def test_interrupts_of_a_virtual_card_are_found_by_the_name_of_its_device(tree):
    root = tree(GOOD, {"sys/devices/virtio3/vendor": "x", "proc/interrupts": " 30:  1  2  PCI-MSI 1-edge  virtio3-input.0\n",
                       "proc/irq/30/smp_affinity_list": "2\n"})  # fmt: skip
    (root / "sys/class/net/eth0/device").symlink_to(root / "sys/devices/virtio3")
    assert found(root)["network interrupts"].value == [2]


def test_of_siblings_the_first_usable_one_stands_for_the_core(tree):
    siblings = {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in CORES}
    root = tree(GOOD, siblings)
    assert physical_cores(CORES, root) == [0, 1]
    assert physical_cores([2, 3], root) == [2, 3]


def test_this_machine_can_be_looked_at():
    told = found(Path("/"), [0])
    assert told["cores"].value == 1
    assert cpu_times() is not None


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_read_as_they_are_written(cpus):
    assert cpu_list(ranges(sorted(cpus))) == sorted(cpus)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reading_of_a_list(text):
    assert all(cpu >= 0 for cpu in cpu_list(text.replace("-", "")))
