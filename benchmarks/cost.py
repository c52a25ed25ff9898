"""What does a token cost the client? CPU of all its processes, beside a bare C loop at the same work.

    python benchmarks/cost.py [--streams 1000] [--rounds 3] [--transport kernel]

Cost a token without start-up = the slope between a run and one three times as long: (CPU of the long - CPU of the short)
/ (tokens of the long - tokens of the short), user + system, of every process that the command starts: decoding, capture,
histograms, the summary and the report included. The floor (floor.c: epoll, recv, clock_gettime) does the same
requests in the same minute, in turn with it, so that the ratio holds where the machine's speed drifts.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
from bench import CLIENT_CORE, HERE, loadgen_run, save, simulator

TOKENS = 128


def floor_binary(folder: str) -> str:
    """floor.c, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("benchmarks/cost.py needs a C compiler for the floor; none is on the PATH")
    binary = str(Path(folder, "floor"))
    subprocess.run([compiler, "-O2", "-o", binary, str(HERE / "floor.c")], check=True)
    return binary


def request_file(folder: str, port: str) -> str:
    """The request that the floor repeats: the same body, in size and in what it asks, as loadgen's."""
    body = orjson.dumps(
        {
            "messages": [{"role": "user", "content": " ".join(["time"] * 64)}],
            "model": "sim",
            "max_tokens": TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    path = Path(folder, "request.bin")
    path.write_bytes(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%b\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (port.encode(), len(body), body)
    )
    return str(path)


def floor_cpu_us(binary: str, request: str, port: str, streams: int, requests: int) -> tuple[int, int]:
    """(user, system) us of one run of the floor."""
    command = ["taskset", "-c", str(CLIENT_CORE), binary, "127.0.0.1", port, str(streams), str(requests), request]
    _, _, user_us, system_us, _ = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(user_us), int(system_us)


def loadgen_cpu_us(url: str, streams: int, requests: int, transport: str) -> tuple[float, float]:
    """(CPU us, tokens/s) of one `loadgen run`, all processes."""
    with loadgen_run(
        "--url", url, "--concurrency", str(streams), "--requests", str(requests), "--output-tokens", str(TOKENS),
        "--input-tokens", "64", "--transport", transport,
    ) as finished:  # fmt: skip
        stage = finished.summary()["stages"][0]
        if stage["requests"]["completed"] != requests:
            sys.exit(f"{requests} requests were sent, {stage['requests']['completed']} completed: no cost to speak of")
        return finished.cpu_s * 1e6, stage["output_tokens_per_s"]


def measure(streams: int, rounds: int, transport: str) -> dict[str, Any]:
    """The slopes, round by round."""
    short, long = 2 * streams, 6 * streams
    tokens = (long - short) * TOKENS
    floor, ours, rates = [], [], []
    with tempfile.TemporaryDirectory() as folder, simulator("--step", "20ms") as served:
        binary = floor_binary(folder)
        port = served.url.split(":")[2].split("/")[0]
        request = request_file(folder, port)
        for _ in range(rounds):
            floor_short, floor_long = (sum(floor_cpu_us(binary, request, port, streams, n)) for n in (short, long))
            floor.append((floor_long - floor_short) / tokens)
            (our_short, _), (our_long, rate) = (
                loadgen_cpu_us(served.url, streams, n, transport) for n in (short, long)
            )
            ours.append((our_long - our_short) / tokens)
            rates.append(rate)
    ratios = [our / least for our, least in zip(ours, floor, strict=True)]
    return {
        "streams": streams,
        "transport": transport,
        "loadgen_us_per_token": [round(value, 2) for value in ours],
        "floor_us_per_token": [round(value, 2) for value in floor],
        "ratio": [round(value, 2) for value in ratios],
        "ratio_median": round(statistics.median(ratios), 2),
        "loadgen_us_per_token_median": round(statistics.median(ours), 2),
        "tokens_per_s": [round(rate) for rate in rates],
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", choices=("kernel", "aiohttp"), default="kernel")
    chosen = parser.parse_args()
    save("cost", measure(chosen.streams, chosen.rounds, chosen.transport))


if __name__ == "__main__":
    main()
