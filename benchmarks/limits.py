"""What a connection and a token take of memory, network and disk, and what putting parts together costs: for docs/scale.md.

    python benchmarks/limits.py [CASE ...]      # memory, wire, gathering, sending; all by default

What a token and a request take of a core is in cost.py and pacing.py.

memory     what a worker holds at 500, 2,000 and 8,000 streams, seen from outside; the slope is a connection with its stream.
wire       bytes and packets over the loopback interface, both ways together, while 1,000 streams run, by the interface's own
           count; and the bytes of the capture of the same run.
gathering  a drawn capture of so many requests of 128 tokens counted in one process and put together in another: CPU, the
           bytes between them, and the memory of the one that gathers (analysis/partials.py).
sending    the bytes of a real request on the same way: 250 streams with clocks of their own, 4,000 and 16,000 requests.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from analysis_speed import TOKENS_A_REQUEST, draw
from bench import loadgen_run, save, simulator
from processes import watched_workers

from analysis import partials

STREAMS: Final = (500, 2000, 8000)

REQUESTS: Final = (4_000, 16_000)

TOKENS: Final = (4_000_000, 64_000_000)
"""Of the drawn captures; what differs between them is what requests take."""

PEAK: Final = """
def peak_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
"""

COUNT: Final = """
import sys, time
from pathlib import Path
from analysis import partials
folder, sent = Path(sys.argv[1]), Path(sys.argv[2])
(sent / "heads").write_bytes(partials.heads(folder))
run = partials.gathered(folder, [(sent / "heads").read_bytes()])
begun = time.process_time()
(sent / "tallies").write_bytes(partials.tallies(folder, partials.order(run)))
print(time.process_time() - begun, peak_mb())
"""

GATHER: Final = """
import sys, time
from pathlib import Path
from analysis import partials, summary
folder, sent = Path(sys.argv[1]), Path(sys.argv[2])
begun = time.process_time()
run = partials.gathered(folder, [(sent / "heads").read_bytes()])
told = summary.finished(run, [(sent / "tallies").read_bytes()]).summary
assert told["stages"][0]["requests"]["completed"] == int(sys.argv[3])
print(time.process_time() - begun, peak_mb())
"""


def memory() -> dict[str, Any]:
    """Memory a connection, by the slope over the numbers of streams."""
    peak_mb = {}
    for streams in STREAMS:
        with (
            simulator("--step", "200ms") as served,
            watched_workers() as watched,
            loadgen_run(
                "--url", served.url, "--concurrency", str(streams), "--requests", str(2 * streams), "--input-tokens", "64",
                "--output-tokens", "32", "--no-html",
            ) as finished,
        ):  # fmt: skip
            assert finished.summary()["stages"][0]["requests"]["failed"] == 0
        peak_mb[streams] = watched.peak_rss_mb
    least, most = STREAMS[0], STREAMS[-1]
    return {
        "worker_peak_rss_mb": {str(streams): round(value, 1) for streams, value in peak_mb.items()},
        "bytes_a_connection": round((peak_mb[most] - peak_mb[least]) * (1 << 20) / (most - least)),
    }


def wire() -> dict[str, Any]:
    """Bytes a token on the network and on the disk."""
    with simulator("--step", "20ms") as served, _loopback() as moved, loadgen_run(
        "--url", served.url, "--concurrency", "1000", "--requests", "3000", "--input-tokens", "64",
        "--output-tokens", "128", "--no-html",
    ) as finished:  # fmt: skip
        captured = finished.capture()
        tokens = sum(len(events) for events in captured["event_ns"].to_pylist())
        written = sum(path.stat().st_size for path in (finished.run_dir / "capture").iterdir())
        http = sum(captured["response_bytes"].to_pylist())
    return {
        "streams": 1000,
        "tokens": tokens,
        "http_bytes_a_token": round(http / tokens, 1),
        "wire_bytes_a_token": round(moved["bytes"] / tokens, 1),
        "packets_a_token": round(moved["packets"] / tokens, 3),
        "capture_bytes_a_token": round(written / tokens, 2),
    }


def gathering() -> dict[str, Any]:
    """What a request takes of those who count and of the one who gathers."""
    found = []
    for tokens in TOKENS:
        with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as name:
            folder = Path(name) / "run"
            drawn, _ = draw(folder, tokens)
            count_s, count_mb = _figures(COUNT, folder, name)
            gather_s, gather_mb = _figures(GATHER, folder, name, drawn // TOKENS_A_REQUEST)
            sent = (Path(name) / "tallies").stat().st_size
            found.append(
                {
                    "requests": drawn // TOKENS_A_REQUEST,
                    "count_cpu_s": round(count_s, 3),
                    "count_rss_mb": round(count_mb, 1),
                    "sent_mb": round(sent / 1e6, 2),
                    "gather_cpu_s": round(gather_s, 3),
                    "gather_rss_mb": round(gather_mb, 1),
                }
            )
    few, many = found
    requests = many["requests"] - few["requests"]
    return {
        "runs": found,
        "sent_bytes_a_request": round((many["sent_mb"] - few["sent_mb"]) * 1e6 / requests, 1),
        "gather_cpu_us_a_request": round((many["gather_cpu_s"] - few["gather_cpu_s"]) * 1e6 / requests, 2),
        "gather_bytes_a_request": round((many["gather_rss_mb"] - few["gather_rss_mb"]) * (1 << 20) / requests),
        "count_million_tokens_per_cpu_s": round(many["requests"] * TOKENS_A_REQUEST / many["count_cpu_s"] / 1e6, 1),
    }


def _figures(script: str, *arguments: object) -> tuple[float, float]:
    command = [sys.executable, "-c", PEAK + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    cpu_s, rss_mb = map(float, done.stdout.split())
    return cpu_s, rss_mb


@contextmanager
def _loopback() -> Iterator[dict[str, int]]:
    """What the loopback interface carries meanwhile, without what it carries by itself in as long a time before."""
    moved: dict[str, int] = {}
    idle = _lo()
    time.sleep(2.0)
    rest = [(after - before) / 2.0 for before, after in zip(idle, _lo(), strict=True)]
    before, begun = _lo(), time.perf_counter()
    try:
        yield moved
    finally:
        length_s = time.perf_counter() - begun
        for name, one, two, a_second in zip(("bytes", "packets"), before, _lo(), rest, strict=True):
            moved[name] = round(two - one - a_second * length_s)


def _lo() -> tuple[int, int]:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            received = numbers.split()
            return int(received[0]), int(received[1])
    sys.exit("there is no interface called lo")


def sending() -> dict[str, Any]:
    """What a request of a real run takes on its way to the one that gathers, by the difference of two runs."""
    sent_bytes = {}
    for count in REQUESTS:
        with (
            simulator("--step", "20ms", "--mode", "independent") as served,
            loadgen_run(
                "--url", served.url, "--concurrency", "250", "--requests", str(count), "--input-tokens", "64",
                "--output-tokens", "8", "--no-html",
            ) as finished,
        ):  # fmt: skip
            run = partials.gathered(finished.run_dir, [partials.heads(finished.run_dir)])
            sent_bytes[count] = len(partials.tallies(finished.run_dir, partials.order(run)))
    few, many = REQUESTS
    return {
        "sent_bytes": {str(count): size for count, size in sent_bytes.items()},
        "sent_bytes_a_request": round((sent_bytes[many] - sent_bytes[few]) / (many - few), 1),
    }


CASES: Final = {"memory": memory, "wire": wire, "gathering": gathering, "sending": sending}


def main() -> None:
    """Run the cases named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    chosen = parser.parse_args()
    if unknown := set(chosen.cases) - set(CASES):
        sys.exit(f"unknown case {unknown.pop()!r}; there are {', '.join(CASES)}")
    for name in chosen.cases or CASES:
        save("limits", {"case": name} | CASES[name]())


if __name__ == "__main__":
    main()
