"""How true are the stamps? Joins the capture with the server's own log, token by token.

    python benchmarks/accuracy.py [CASE ...] [--transport kernel|aiohttp] [--ray ADDRESS]

With --ray the load comes from one node of a Ray cluster on this machine (tests/on_ray/raylets.py starts one).

What is true, and what an error is: analysis/truth.py.
"""

import argparse
import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from bench import Finished, certificate, loadgen_run, save, simulator

from analysis.truth import joined

FAULTS = (
    "error-429",
    "error-500",
    "error-503",
    "html",
    "not-a-stream",
    "empty",
    "stall-mid-stream",
    "reset-mid-stream",
    "truncate",
    "missing-end",
    "error-event",
    "close-after-response",
    "close-idle",
)
"""Of the simulator's --fault; a stall lasts 2 s, and ends well."""

CASES: dict[str, dict[str, Any]] = {
    "1-stream": {"streams": 1, "step": "5ms", "requests": 40},
    "256-lock-step": {"streams": 256, "step": "20ms", "requests": 1024},
    "256-https": {"streams": 256, "step": "20ms", "requests": 1024, "https": True},
    "1000-lock-step": {"streams": 1000, "step": "20ms", "requests": 3000},
    "1000-independent": {"streams": 1000, "step": "20ms", "requests": 3000, "mode": "independent"},
    "500-all-well": {"streams": 500, "step": "20ms", "requests": 3000, "mode": "independent"},
    # One response in ten goes wrong in one of these ways; the row is about the others.
    "500-tenth-failing": {
        "streams": 500,
        "step": "20ms",
        "requests": 3000,
        "mode": "independent",
        "failing_share": 0.1,
    },
    "8000-lock-step": {"streams": 8000, "step": "200ms", "requests": 16000},
}


def measure(name: str, transport: str, ray: str | None) -> dict[str, Any]:
    """One case, served and loaded; its load from a node of the cluster at `ray`."""
    case = CASES[name]
    options = ["--step", case["step"], "--mode", case.get("mode", "lock-step")]
    checked = []
    if failing_share := case.get("failing_share"):
        faults = [word for fault in FAULTS for word in ("--fault", fault)]
        options += ["--fault-share", str(failing_share), "--stall", "2s", "--seed", "1", *faults]
        checked = ["--no-check", "--model", "sim"]  # the check may be the one that meets a fault
    with (
        certificate() as (cert, key),
        simulator(*options, *(("--tls-cert", cert, "--tls-key", key) if case.get("https") else ())) as served,loadgen_run(
        "--url", served.url, "--transport", transport, "--concurrency", str(case["streams"]),
        "--requests", str(case["requests"]), "--output-tokens", "128", "--input-tokens", "64", *checked,
        *(("--tls-ca", cert) if case.get("https") else ()),
        *(("--ray", ray, "--nodes", "1") if ray else ()),
    ) as finished
    ):  # fmt: skip
        served.stop()
        row = {"case": name, "transport": transport, **row_of(finished, served.truth())}
        # The workers are not this command's children there.
        return row if ray is None else row | {"ray": True, "cpu_us_per_token": None, "peak_rss_mb": None}


def row_of(finished: Finished, truth: pa.Table) -> dict[str, Any]:
    """What a run comes to against the server's log, and what it cost."""
    captured = finished.capture()
    completed = captured.filter(pc.is_null(captured["error"]))
    # The endpoint check is a request too, and stands in the truth log alone.
    stage = finished.summary()["stages"][0]
    row = joined(completed, truth)
    return row | {
        "failed": len(captured) - len(completed),
        "tokens_per_s": round(stage["output_tokens_per_s"] or 0),
        "coalesced_share": stage["client"]["coalesced_share"],
        "lag_p99_us": stage["client"]["lag_us"]["p99"],
        "cpu_us_per_token": round(finished.cpu_s * 1e6 / row["tokens"], 2),
        "peak_rss_mb": round(finished.peak_rss_mb),
    }


def main() -> None:
    """Run the cases named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--transport", choices=("kernel", "aiohttp"), default="kernel")
    parser.add_argument("--ray", metavar="ADDRESS", help="of a cluster on this machine")
    chosen = parser.parse_args()
    if unknown := set(chosen.cases) - set(CASES):
        sys.exit(f"unknown case {unknown.pop()!r}; there are {', '.join(CASES)}")
    for name in chosen.cases or CASES:
        save("cluster" if chosen.ray else "accuracy", measure(name, chosen.transport, chosen.ray))


if __name__ == "__main__":
    main()
