import json
import os
import resource
import subprocess
import sys

import pytest

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
            timeout=30,
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
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert said.stdout.strip() == "True"
    assert host.descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_a_process_that_steps_back_is_as_nice_as_can_be():
    asked = "import os; from loadgen import host; host.step_back(); print(os.nice(0))"
    printed = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["19"]
