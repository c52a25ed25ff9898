"""One worker holds 8,000 streams at 40,000 tokens/s: nothing lost, stamps true, memory small.

Truth: the simulator's log, joined token by token as in accuracy.py (the case 8000-lock-step, a 200 ms tick); memory is
what the kernel counts for the worker alone.

Method: that case, with the worker watched from outside meanwhile. `meets` holds the claim to the figures: every token
accounted for, stamp error p99 at most 50 us, the worker's peak below 400 MB.

    python benchmarks/scale.py [--transport kernel|aiohttp]
"""

import argparse
from typing import Any, Final

from accuracy import CASES, measure
from bench import save
from processes import watched_workers

CASE: Final = "8000-lock-step"
MOST_STAMP_ERROR_US: Final = 50.0
MOST_RSS_MB: Final = 400.0


def judged(row: dict[str, Any]) -> dict[str, bool]:
    """Which parts of the claim hold."""
    accounts = ("failed", "unknown_requests", "lost_tokens", "invented_tokens")
    return {
        # A request that stands in the capture twice would join twice: the number of rows counts too.
        "accounts": not any(row[name] for name in accounts) and row["requests"] == CASES[CASE]["requests"],
        "stamps": row["stamp_error_us"]["p99"] <= MOST_STAMP_ERROR_US,
        "memory": row["worker_peak_rss_mb"] < MOST_RSS_MB,
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", choices=("kernel", "aiohttp"), default="kernel")
    chosen = parser.parse_args()
    with watched_workers() as watched:
        row = measure(CASE, chosen.transport)
    row["worker_peak_rss_mb"] = round(watched.peak_rss_mb, 1)
    row["worker_descriptors"] = max(sample.descriptors for sample in watched.samples)
    save("scale", row | {"meets": judged(row)})


if __name__ == "__main__":
    main()
