import json
import os
import resource
import subprocess
import sys

import pytest
from asked import PATIENCE_S

from loadgen import host


def test_the_usable_cores_are_those_of_this_process():
    cores = host.usable_cores()
    assert cores == sorted(set(cores))
    script = "from loadgen.host import usable_cores; print(usable_cores())"
    if hasattr(os, "sched_setaffinity"):
        said = subprocess.run(
            [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{cores[-1]}}})\n{script}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert said.stdout.strip() == f"[{cores[-1]}]"


def test_the_facts_are_plain_values_and_none_is_missing():
    facts = json.loads(json.dumps(host.facts()))
    assert facts["usable_cores"] == host.usable_cores()
    assert facts["cpus"] == os.cpu_count()
    assert facts["memory_bytes"] > 1 << 26
    for name in ("name", "system", "kernel", "machine", "cpu", "clock_source", "python"):
        assert isinstance(facts[name], str)
        assert facts[name]


@pytest.mark.skipif(not os.path.exists("/sys/devices/system/clocksource"), reason="no clock source is told here")
def test_the_clock_source_is_the_kernels_word():
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as file:
        assert host.clock_source() == file.read().strip()


def test_the_soft_limit_on_descriptors_is_lifted_to_the_hard_one():
    script = (
        "import resource as r; from loadgen.host import *\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "raise_descriptor_limit(); print(r.getrlimit(r.RLIMIT_NOFILE)[0] == descriptor_limit() == hard)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert said.stdout.strip() == "True"
    assert host.descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_a_process_that_steps_back_is_as_nice_as_can_be():
    asked = "import os; from loadgen import host; host.step_back(); print(os.nice(0))"
    printed = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["19"]


def tree(root, **files: str) -> None:
    """Files below a root folder; __ stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = "sys__fs__cgroup__"


@pytest.mark.parametrize(
    ("cpu_max", "above", "quota"),
    [
        ("max 100000", "max 100000", None),
        ("150000 100000", "max 100000", 1.5),
        ("400000 100000", "200000 100000", 2.0),
        ("50000 100000\n", "", 0.5),
        ("nonsense", "", None),
    ],
)
def test_the_tightest_cpu_quota_of_all_groups_above_counts(cpu_max, above, quota, tmp_path):
    tree(tmp_path, proc__self__cgroup="0::/a/b\n", **{f"{V2}a__b__cpu.max": cpu_max, f"{V2}a__cpu.max": above})
    assert host.cpu_quota(tmp_path) == quota


def test_the_quota_of_a_container_is_that_of_its_root(tmp_path):
    tree(tmp_path, proc__self__cgroup="0::/docker/0123\n", **{f"{V2}cpu.max": "100000 100000"})
    assert host.cpu_quota(tmp_path) == 1.0


@pytest.mark.parametrize(("allowed", "quota"), [("-1", None), ("250000", 2.5)])
def test_a_quota_of_version_1_is_read_too(allowed, quota, tmp_path):
    files = {
        "sys__fs__cgroup__cpu__a__cpu.cfs_quota_us": allowed,
        "sys__fs__cgroup__cpu__a__cpu.cfs_period_us": "100000",
    }
    tree(tmp_path, proc__self__cgroup="4:memory:/x\n1:cpu,cpuacct:/a\n0::/\n", **files)
    assert host.cpu_quota(tmp_path) == quota


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert host.cpu_quota(tmp_path) is None
    assert host.throttled_ns(tmp_path) == host.out_of_memory_kills(tmp_path) == 0
    assert host.memory_bytes(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_memory_limit_makes_the_machine_smaller(tmp_path):
    tree(tmp_path, proc__self__cgroup="0::/a\n", **{f"{V2}a__memory.max": "1000000\n"})
    assert host.memory_bytes(tmp_path) == 1_000_000
    tree(tmp_path, proc__self__cgroup="3:memory:/a\n", **{f"{V2}memory__a__memory.limit_in_bytes": "2000000\n"})
    assert host.memory_bytes(tmp_path) == 2_000_000


def test_what_the_kernel_did_to_the_group_is_read_from_its_files(tmp_path):
    tree(
        tmp_path,
        proc__self__cgroup="0::/a\n",
        **{
            f"{V2}a__memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
            f"{V2}a__cpu.stat": "usage_usec 99\nnr_throttled 4\nthrottled_usec 1500\n",
        },
    )
    assert host.out_of_memory_kills(tmp_path) == 2
    assert host.throttled_ns(tmp_path) == 1_500_000


def test_a_process_that_holds_a_key_leaves_no_core():
    script = (
        "import ctypes, resource; from loadgen import host; host.keep_memory_private()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert said.stdout.strip() == "0 0"


def test_the_memory_that_is_held_is_known():
    before = host.resident_bytes()
    held = bytearray(b"x" * (32 << 20))
    assert host.resident_bytes() - before > 16 << 20
    del held
