"""A run on a Ray cluster is ended in mid-flight: how long until the last worker of the last node is gone?

Truth: the process table. From the moment at which the end is asked for (the stop of the Ray job, or a signal to the driver)
until none of the workers that there were below the raylets of this machine is left, looked at every 5 ms.

Method: `--streams` streams with responses of up to 80 s on all nodes of a cluster, ended when the first rows have come to
the driver; each way `--runs` times. Then every capture is read: `rows` is the least that a run left with the driver, and
`rows_on_nodes` the least on the nodes, which keep theirs when the driver can take them no more.

    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=... python benchmarks/stopping.py --ray ADDRESS --jobs http://HOST:PORT
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import CLIENT_CORE, save, simulator
from processes import look_at, workers_below

from analysis.captures import open_captures

LONGEST_S: Final = 60.0
LOOK_S: Final = 0.005

Load = tuple[list[str], Path]
"""The command that makes it, and the directory of its run."""


def raylets() -> list[int]:
    """The process ids of the raylets of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and folder.joinpath("cmdline").read_bytes().partition(b"\0")[0].endswith(
                b"/raylet"
            ):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def workers() -> list[int]:
    """The process ids of loadgen's workers on all nodes."""
    return [pid for raylet in raylets() for pid in workers_below(raylet)]


def ended_s(is_under_way: Callable[[], bool], end: Callable[[], object]) -> float:
    """Seconds from `end` until no worker is left."""
    until(is_under_way)
    there = workers()  # some lose the parent that they would be found by
    assert there, "there is something to end"
    began_s = time.monotonic()
    end()
    until(lambda: not any(look_at(pid) for pid in there))
    return time.monotonic() - began_s


def until(is_so: Callable[[], bool]) -> None:
    """Wait for it; exits where it does not come."""
    deadline_s = time.monotonic() + LONGEST_S
    while not is_so():
        if time.monotonic() > deadline_s:
            sys.exit(f"not within {LONGEST_S:g} s")
        time.sleep(LOOK_S)


def signalled(number: signal.Signals) -> Callable[[Load], float]:
    """The driver gets a signal."""

    def stop(load: Load) -> float:
        command, run_dir = load
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            took_s = ended_s(lambda: rows(run_dir) > 0, lambda: driver.send_signal(number))
            driver.wait(LONGEST_S)
            return took_s
        finally:
            driver.kill()
            driver.wait()

    return stop


def job_stopped(jobs: str) -> Callable[[Load], float]:
    """The driver is a Ray job, which is stopped: SIGTERM, and 3 s later SIGKILL."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(jobs)

    def stop(load: Load) -> float:
        command, run_dir = load
        job = client.submit_job(entrypoint=shlex.join(command))
        took_s = ended_s(lambda: rows(run_dir) > 0, lambda: client.stop_job(job))
        until(lambda: client.get_job_status(job).is_terminal())
        return took_s

    return stop


def rows(folder: Path) -> int:
    """How many a run's captures hold, as far as they are written."""
    return sum(capture.rows for capture in open_captures(folder)[0])


def on_nodes(run_dir: Path) -> int:
    """How many are left on the nodes, which are this machine; removes them."""
    run_id = json.loads((run_dir / "run.json").read_bytes())["run_id"]
    folder = Path(tempfile.gettempdir()) / f"loadgen-{run_id}"
    try:
        return sum(rows(node) for node in folder.glob("node-*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """One row a way to end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", required=True, metavar="HOST:PORT")
    parser.add_argument("--jobs", required=True, metavar="URL")
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    ways = {
        "ray job stop": job_stopped(chosen.jobs),
        "SIGTERM": signalled(signal.SIGTERM),
        "SIGKILL": signalled(signal.SIGKILL),
    }
    with simulator("--step", "20ms") as served:
        for way, stop in ways.items():
            took: list[float] = []
            kept: list[tuple[int, int]] = []
            for _ in range(chosen.runs):
                with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
                    run_dir = Path(folder) / "run"
                    took.append(stop((command(served.url, chosen, run_dir), run_dir)))
                    kept.append((rows(run_dir), on_nodes(run_dir)))
            row: dict[str, Any] = {
                "case": "stopping",
                "way": way,
                "streams": chosen.streams,
                "took_s": [round(one, 3) for one in took],
                "rows": min(with_driver for with_driver, _ in kept),
                "rows_on_nodes": min(there for _, there in kept),
            }
            save("cluster", row)


def command(url: str, chosen: argparse.Namespace, run_dir: Path) -> list[str]:
    """Some responses are short, so that there are rows; the others are in flight when the end comes."""
    load = ["--concurrency", str(chosen.streams), "--duration", "60s", "--warmup", "0", "--no-check", "--no-html"]
    lengths = ["--input-tokens", "16", "--output-tokens", "uniform:20..4000"]
    where = ["--ray", chosen.ray, "--out", str(run_dir)]
    return [sys.executable, "-m", "loadgen", "run", "--url", url, "--model", "sim", *load, *lengths, *where]


if __name__ == "__main__":
    main()
