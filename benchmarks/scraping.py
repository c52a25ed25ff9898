"""Does --scrape disturb the workers? The same load with and without it, in turn.

    python benchmarks/scraping.py [CASE ...] [--rounds 3] [--streams 256] [--requests 1024]

Truth: as in accuracy.py. In all cases but the last the scraper shares the core of the only worker, at nice 19, which is the
worst place for it; in the last it is off that core, as it is by itself where there is another (here it is the server's).
The usual page is the simulator's own, scraped once a second, which is the default; the large one has 4,608 samples (64
engines with their histograms, 580 KB).
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from typing import Any, Final

from accuracy import row_of
from bench import CLIENT_CORE, SERVER_CORE, loadgen_run, save, simulator

ENGINES: Final = 64
BUCKETS: Final = (*(str(1.3**power / 100) for power in range(20)), "+Inf")
HISTOGRAMS: Final = ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")
GAUGES: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")

CASES: Final = {
    "none": None,
    "usual page, 1 s": ("usual", "1s", False),
    "large page, 1 s": ("large", "1s", False),
    "large page, 100 ms": ("large", "100ms", False),
    "large page, 100 ms, apart": ("large", "100ms", True),
}
"""Which page, how often, and whether the scraper has a core without a worker."""


def page() -> bytes:
    """Metrics of many engines, as one router in front of them would give them."""
    lines = []
    for engine in range(ENGINES):
        labels = f'engine="{engine}",model_name="a-model-with-a-name-of-usual-length"'
        lines += [f"vllm:{name}{{{labels}}} {engine}.5" for name in GAUGES]
        for name in HISTOGRAMS:
            lines += [f'vllm:{name}_bucket{{{labels},le="{le}"}} {place}.0' for place, le in enumerate(BUCKETS)]
            lines += [f"vllm:{name}_{kind}{{{labels}}} 20.0" for kind in ("sum", "count")]
    return ("\n".join(lines) + "\n").encode()


def serve_page(port: Connection) -> None:
    """Serves the page on the server's core until its process is ended; says on which port."""
    os.sched_setaffinity(0, {SERVER_CORE})
    body = page()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as served:
        port.send(served.server_address[1])
        served.serve_forever()


@contextmanager
def large_page() -> Iterator[str]:
    """Its URL."""
    spawned = multiprocessing.get_context("spawn")
    receiver, sender = spawned.Pipe(duplex=False)
    process = spawned.Process(target=serve_page, args=(sender,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}/metrics"
    finally:
        process.terminate()
        process.join()


def measure(case: str, large_url: str, streams: int, requests: int) -> dict[str, Any]:
    """One run."""
    with simulator("--step", "20ms") as served:
        scraped, cores = [], {CLIENT_CORE}
        if (how := CASES[case]) is not None:
            which, every, apart = how
            url = large_url if which == "large" else f"{served.root}/metrics"
            scraped = ["--scrape", url, "--scrape-every", every]
            cores = {SERVER_CORE, CLIENT_CORE} if apart else cores
        with loadgen_run(
            "--url", served.url, "--concurrency", str(streams), "--requests", str(requests), "--output-tokens", "128",
            "--input-tokens", "64", *scraped, cores=cores, cpus={CLIENT_CORE},
        ) as finished:  # fmt: skip
            served.stop()
            sources = finished.summary()["server"] or []
            lag_us = finished.summary()["stages"][0]["client"]["lag_us"]
            row = row_of(finished, served.truth())
    told = {name: row[name] for name in ("stamp_error_us", "ttft_error_us", "coalesced_share", "cpu_us_per_token")}
    return {
        "case": case,
        "streams": streams,
        "tokens": row["tokens"],
        "lost_tokens": row["lost_tokens"],
        **told,
        "lag_us": {name: lag_us[name] for name in ("p50", "p99", "p99_9", "max")},
        "scrapes": sum(source["scrapes"] for source in sources),
        "failed_scrapes": sum(source["failed"] for source in sources),
        "page_bytes": max((source["bytes"] for source in sources), default=0),
        "scrape_ms_p50": max((source["scrape_ms_p50"] for source in sources), default=None),
    }


def main() -> None:
    """All cases in turn, as often as there are rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *CASES], default=[], help="; ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--requests", type=int, default=1024)
    chosen = parser.parse_args()
    with large_page() as url:
        for _ in range(chosen.rounds):
            for case in chosen.cases or CASES:
                save("scraping", measure(case, url, chosen.streams, chosen.requests))


if __name__ == "__main__":
    main()
