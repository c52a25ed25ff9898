"""The client's own failures: every one ends with what was measured readable, and with a verdict that gives the reason."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts import in_trouble, run_command
from asked import PATIENCE_S, children, complaints, environment, gone, installed, rows, typed, until
from misbehaving import CHUNKED, FAULTS, GOOD, LARGE_CHUNK, Fault, Peer, misbehaving, say

from analysis.client import LONG_SILENCE_NS
from loadgen.simulator.process import Served, serve

SILENCE_S = 1.5 * LONG_SILENCE_NS / 1e9

QUICK = ("--concurrency", "4", "--requests", "100")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("--step", "10ms", "--ttft", "5ms") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """A token at once, and the next one in a minute."""
    with serve("--step", "60s", "--mode", "independent", "--role-event", "early") as simulator:
        yield simulator


@contextlib.contextmanager
def running(url: str, run_dir: Path, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """`loadgen run` while it goes on."""
    with subprocess.Popen(
        [*run_command(url, run_dir), "--no-html", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def reasons(summary: dict[str, Any]) -> dict[str, str]:
    """Why a run is suspect: code -> words."""
    return {reason["code"]: reason["words"] for reason in summary["verdict"]["reasons"]}


def reported(run_dir: Path) -> dict[str, str]:
    """The reasons that `loadgen report` gives, which has to work."""
    done = typed("report", run_dir, "--json", "--no-html")
    assert (done.returncode, done.stderr) == (0, "")
    return reasons(json.loads(done.stdout))


# processes


@pytest.mark.slow
def test_a_worker_that_was_stopped_for_a_while_is_named(served, run_dir):
    with running(served.url, run_dir, "--workers", 1, "--concurrency", 4, "--duration", "1h") as process:
        until(lambda: len(rows(run_dir)) > 4, "some requests")
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(SILENCE_S)  # the silence itself
        os.kill(worker, signal.SIGCONT)
        seen = len(rows(run_dir))
        until(lambda: len(rows(run_dir)) > seen + 4, "some more requests")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    told = reasons(json.loads((run_dir / "summary.json").read_bytes()))
    assert told["worker-silent"].startswith("worker 0 did nothing for ")
    assert float(told["worker-silent"].split()[5]) >= SILENCE_S


@pytest.mark.slow
def test_a_worker_that_was_stopped_for_good_is_given_up(served, run_dir):
    with running(served.url, run_dir, "--workers", 1, "--concurrency", 4, "--duration", "1h") as process:
        until(lambda: len(rows(run_dir)) > 4, "some requests")
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGSTOP)
        said, complained = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 1
    assert complained == "loadgen: worker 0 has been silent for 30 s: stopped, or starved of CPU\n"
    assert "suspect" in said
    assert gone(worker)
    assert {"run-failed", "capture-cut"} <= reported(run_dir).keys()


@pytest.mark.slow
def test_a_worker_out_of_memory_ends_the_run_and_says_so(run, run_dir):
    def swell(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            peer.send(CHUNKED + LARGE_CHUNK + b"data: ")
            peer.send(b"x" * (14 << 20))
            peer.wait()

    plan = [*[GOOD] * 20, *[Fault(swell, None)] * 20]
    with misbehaving(plan) as server:
        arguments = ("--concurrency", 20, "--requests", 40, "--timeout", "4s")
        done = run(server.url, *arguments, **in_trouble("address-space:150"))
    # Where Python notices, the request at hand fails, or the run ends with the word; libraries of C end the process.
    failed = {row["error"] for row in done.rows}
    assert done.status == 1 or "decode-failed" in failed
    if done.status == 1:
        assert complaints(done.complained)[0].startswith("loadgen: worker 0 ended in mid-run (")
        assert "run-failed" in reasons(done.summary)
    assert sum(row["error"] is None for row in done.rows) <= 20
    reported(run_dir)


@pytest.mark.slow
def test_a_hostile_flood_over_all_streams_does_not_eat_the_memory(run, tmp_path):
    names = ("an endless event", "an endless page", "endless trailers", "endless headers", "an event of 50 MB of lines")
    plan = [FAULTS[name] for name in names] * 4
    told = tmp_path / "memory"
    with misbehaving(plan) as server:
        arguments = ("--concurrency", len(plan), "--requests", len(plan) + 20)
        done = run(server.url, *arguments, "--timeout", "60s", **in_trouble(f"peak-memory:{told}"))
    assert done.status == 0, done.complained
    assert not server.swallowed
    assert sum(row["error"] is None for row in done.rows) == 20
    peak_mb = int(told.read_text()) // 1024
    assert peak_mb < 1_000, "20 streams that would each send 1,000 MB"


def test_at_the_limit_of_memory_the_large_responses_go_and_the_others_stay(run):
    large = say(CHUNKED + LARGE_CHUNK + b"data: " + b"x" * (1 << 20), Peer.wait)
    plan = [*[Fault(large, "too-large")] * 4, *[GOOD] * 36]
    with misbehaving(plan) as server:
        done = run(server.url, "--concurrency", 8, "--requests", 40, **in_trouble("memory-full"))
    assert done.status == 0, done.complained
    assert Counter(row["error"] for row in done.rows) == {"too-large": 4, None: 36}


# the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no mount is allowed here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_up_ends_the_run_and_what_was_written_stays(served, small_disk):
    run_dir = small_disk / "run"
    with running(served.url, run_dir, "--workers", 1, "--concurrency", 4, "--duration", "1h") as process:
        until(lambda: len(rows(run_dir)) > 8, "some requests")
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(b"x" * 4096)
                filler.flush()
        said, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    first, *_, last = complaints(complained)
    assert "the capture cannot be written: No space left on device" in last
    assert "No space left on device" in first
    assert "suspect" in said, "what was measured is shown, though it cannot be written"
    (small_disk / "filler").unlink()
    assert "capture-cut" in reported(run_dir)
    assert len(rows(run_dir)) > 8


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("file-size:20", "File too large"), ("read-only:200", "Read-only file system")],
)
def test_a_capture_that_cannot_go_on_says_why_and_reads_to_its_last_batch(trouble, words, served, run, run_dir):
    done = run(served.url, "--concurrency", 4, "--duration", "1h", **in_trouble(trouble))
    assert done.status == 1
    assert f"worker 0: the capture cannot be written: {words}" in done.complained
    assert words in reasons(done.summary)["run-failed"]
    assert done.rows
    assert reported(run_dir).keys() >= {"run-failed", "capture-cut"}


# limits of the machine


def test_too_few_descriptors_are_this_machines_failure(slow, run):
    arguments = ("--rate", 100, "--duration", "2s", "--drain", "1s", "--arrivals", "constant")
    done = run(slow.url, *arguments, **in_trouble("descriptors:60"))
    assert done.status == 1, "nothing completed here"
    assert {row["error"] for row in done.rows} == {"client-exhausted", "unfinished"}
    assert "no port, descriptor or memory left" in reasons(done.summary)["client-exhausted"]


IN_A_NET_OF_ITS_OWN = """
import fcntl, socket, struct, subprocess, sys
with socket.socket() as sock:  # bring the loopback device up
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as ports:
    ports.write("50000 50007")
with socket.create_server(("127.0.0.1", 8000)) as never_answers:
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_too_few_ports_are_this_machines_failure(run_dir):
    if (tried := subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)).returncode:
        pytest.skip(f"no network of its own is allowed here: {tried.stderr.decode().strip()}")
    command = [
        *installed(),
        "run",
        "--url",
        "http://127.0.0.1:8000",
        "--model",
        "sim",
        "--no-check",
        "--out",
        str(run_dir),
    ]
    load = ["--workers", "1", "--concurrency", "20", "--requests", "20", "--timeout", "2s", "--no-html"]
    subprocess.run(
        ["unshare", "-n", sys.executable, "-c", IN_A_NET_OF_ITS_OWN, *command, *load],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    told = [row["error"] for row in rows(run_dir)]
    assert len(told) == 20
    assert set(told) == {"client-exhausted", "timeout-total"}
    assert told.count("timeout-total") == 8, "as many as there are ports"
    assert "ip_local_port_range" in typed("report", run_dir, "--no-html").stdout


def test_a_core_that_is_refused_is_done_without_and_told(served, run):
    done = run(served.url, *QUICK, **in_trouble("no-affinity"))
    assert done.status == 0
    assert "worker 0 could not be bound to a core of its own" in reasons(done.summary)["unpinned"]
    assert sum(row["error"] is None for row in done.rows) == 100


# the clock


@pytest.mark.parametrize("seconds", [pytest.param(3600, marks=pytest.mark.slow), -3600])
def test_a_step_of_the_wall_clock_is_told_and_spoils_no_stamp(seconds, served, run):
    load = ("--concurrency", 4, "--duration", "3s", "--warmup", "0s")
    done = run(served.url, *load, **in_trouble(f"clock-step:{seconds}"))
    assert done.status == 0
    assert f"by up to {seconds * 1000:+,.3f} ms" in reasons(done.summary)["clock-step"]
    assert len(done.rows) > 8
    for row in done.rows:
        assert row["error"] is None
        assert row["sent_ns"] < row["event_ns"][0] <= row["event_ns"][-1] <= row["last_byte_ns"] <= row["ended_ns"]
        assert row["last_byte_ns"] - row["sent_ns"] < 20_000_000_000


def test_a_machine_that_slept_is_told(served, run):
    load = ("--concurrency", 4, "--duration", "3s", "--warmup", "0s")
    done = run(served.url, *load, **in_trouble("asleep:90"))
    assert done.status == 0
    assert reasons(done.summary)["suspended"].startswith("this machine was suspended for 90.0 s during the stage")
