"""A trace of a million lines begins to be played within two seconds, and no process holds more than 200 MB.

Truth: the simulated endpoint's log says when the first request came; /proc says what each process of the command held at the
most. The clock starts before the command does, so that the interpreters' own start is in it.

Method: a trace of 1,000,000 lines is written (Mooncake: prompts of 100 to 2,000 tokens in blocks of 512, some 100 arrivals a
second; Azure: the same in CSV), and its first seconds are played. `rows_read_per_s` is how fast the whole of it is read, in
one process.

    python benchmarks/traces.py [--lines 1000000] [--seconds 10] [--format mooncake|azure|mooncake.gz]
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final, TextIO

from bench import save, simulator
from processes import MB, _children, look_at

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.workload import formats, traces

RATE_PER_S: Final = 100
MOST_S: Final = 2.0
MOST_MB: Final = 200


def write_trace(path: Path, kind: str, lines: int) -> None:
    """A trace of so many lines; shared prefixes in Mooncake's."""
    randomness = random.Random(1)
    opened: Any = gzip.open if kind.endswith(".gz") else open
    with opened(path, "wt") as file:
        write = _mooncake if kind.startswith("mooncake") else _azure
        write(file, lines, randomness)


def _mooncake(file: TextIO, lines: int, randomness: random.Random) -> None:
    at_ms, fresh = 0.0, 1000
    for _ in range(lines):
        at_ms += randomness.expovariate(RATE_PER_S / 1000)
        tokens = randomness.randint(100, 2000)
        blocks = -(-tokens // 512)
        shared = randomness.randint(0, min(blocks, 2))
        begin = randomness.randint(0, 99) * 2
        ids = [*range(begin, begin + shared), *range(fresh, fresh + blocks - shared)]
        fresh += blocks - shared
        row = {
            "timestamp": int(at_ms),
            "input_length": tokens,
            "output_length": randomness.randint(1, 8),
            "hash_ids": ids,
        }
        file.write(json.dumps(row) + "\n")


def _azure(file: TextIO, lines: int, randomness: random.Random) -> None:
    file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    at_s = 0.0
    for _ in range(lines):
        at_s += randomness.expovariate(RATE_PER_S)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(1_700_000_000 + at_s))
        file.write(
            f"{stamp}.{int(at_s % 1 * 10_000_000):07},{randomness.randint(100, 2000)},{randomness.randint(1, 8)}\n"
        )


def watched(command: list[str]) -> tuple[int, dict[str, float]]:
    """Run a command; (when it was started, ns, and the most that each of its processes held, MB)."""
    began_ns = monotonic_ns()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    peaks: dict[str, float] = {}
    over = threading.Event()

    def look(pid: int) -> None:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = next((word.decode() for word in words if word.startswith(b"loadgen.")), "command")
        if (sample := look_at(pid)) is not None:
            peaks[name] = max(peaks.get(name, 0.0), sample.peak_rss_mb)
        for child in _children(pid):
            look(child)

    def watch() -> None:
        while not over.wait(0.1):
            try:
                look(process.pid)
            except OSError:  # one has just ended
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}:\n{output.decode()}")
    return began_ns, peaks


def measure(kind: str, lines: int, seconds: int) -> dict[str, Any]:
    """One trace, its first seconds played."""
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
        path, run_dir = Path(folder, f"trace.{kind}"), Path(folder, "run")
        write_trace(path, kind, lines)
        file_mb = path.stat().st_size / MB
        began = monotonic_ns()
        how = formats.reading(str(path), None, {})
        rows = sum(1 for _ in traces.play(how, traces.Course(), 1))
        read_s = (monotonic_ns() - began) / NS_PER_S
        with simulator("--step", "5ms") as served:
            command = [
                *(sys.executable, "-m", "loadgen", "run", "--url", served.url, "--trace", str(path)),
                *("--to", f"{seconds}s", "--out", str(run_dir), "--workers", "1", "--cpus", "1"),
            ]
            began_ns, peaks = watched(command)
            served.stop()
            # The first of all is the check of the endpoint.
            first_ns = sorted(served.truth().column("request_read_ns").to_pylist())[1]
        stage = json.loads((run_dir / "summary.json").read_bytes())["stages"][0]
    return {
        "format": kind,
        "lines": lines,
        "file_mb": round(file_mb, 1),
        "first_request_s": round((first_ns - began_ns) / NS_PER_S, 3),
        "peak_mb": {name: round(peak, 1) for name, peak in sorted(peaks.items())},
        "requests": stage["requests"]["sent"],
        "failed": stage["requests"]["failed"],
        "unprepared": stage["client"]["unprepared_requests"],
        "lateness_p99_us": stage["client"]["lateness_us"]["p99"],
        "rows_read_per_s": round(rows / read_s),
        "met": (first_ns - began_ns) / NS_PER_S <= MOST_S and max(peaks.values()) <= MOST_MB,
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--format", choices=("mooncake", "azure", "mooncake.gz"), default="mooncake")
    chosen = parser.parse_args()
    save("traces", measure(chosen.format, chosen.lines, chosen.seconds))


if __name__ == "__main__":
    main()
