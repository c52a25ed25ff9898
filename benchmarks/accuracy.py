"""How true are the stamps? Joins the capture with the server's own log, token by token.

    python benchmarks/accuracy.py [CASE ...] [--transport kernel|aiohttp]

Truth: the simulator notes CLOCK_MONOTONIC just before the send that carries each event. Error of a stamp = the client's
event_ns - that. Error of a TTFT = the measured TTFT - (true send time of the first event - sent_ns): what the client
added. `ttft_server` is the server's own view, first event - request read, for comparison: it lacks the time that the
request lay in the server's socket, which the client's TTFT has to hold.
"""

import argparse
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bench import Finished, certificate, figures, loadgen_run, save, simulator

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


def joined(captured: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """The errors of every stamp, and the accounts: rows and tokens on either side that the other does not have."""
    true_rows = {row: i for i, row in enumerate(truth["response_id"].to_pylist())}
    true_events, true_offsets = _flat(truth["event_ns"])
    events, offsets = _flat(captured["event_ns"])
    sent_ns = captured["sent_ns"].to_numpy()
    request_read_ns = truth["request_read_ns"].to_numpy()
    errors, ttft_errors_ns, ttft_ns, ttft_server_ns = [], [], [], []
    unknown = lost = invented = 0
    for i, response_id in enumerate(captured["response_id"].to_pylist()):
        j = true_rows.get(response_id)
        if j is None:
            unknown += 1
            continue
        mine = events[offsets[i] : offsets[i + 1]]
        true = true_events[true_offsets[j] : true_offsets[j + 1]]
        if len(mine) != len(true):
            lost += max(len(true) - len(mine), 0)
            invented += max(len(mine) - len(true), 0)
            continue
        errors.append(mine - true)
        ttft_errors_ns.append(mine[0] - true[0])
        ttft_ns.append(mine[0] - sent_ns[i])
        ttft_server_ns.append(true[0] - request_read_ns[j])
    stamp_us = np.concatenate(errors) / 1000
    return {
        "requests": len(captured),
        "tokens": len(stamp_us),
        "unknown_requests": unknown,
        "duplicate_requests": len(captured) - len(set(captured["response_id"].to_pylist())),
        "lost_tokens": lost,
        "invented_tokens": invented,
        "stamp_error_us": figures(stamp_us),
        "ttft_error_us": figures(np.array(ttft_errors_ns) / 1000),
        "ttft_p50_ms": round(float(np.median(ttft_ns)) / 1e6, 3),
        "ttft_server_p50_ms": round(float(np.median(ttft_server_ns)) / 1e6, 3),
    }


def _flat(column: pa.ChunkedArray) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    lengths = np.array(column.combine_chunks().value_lengths().fill_null(0))
    return column.combine_chunks().flatten().to_numpy(), np.concatenate([[0], np.cumsum(lengths)])


def measure(name: str, transport: str) -> dict[str, Any]:
    """One case, served and loaded."""
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
    ) as finished
    ):  # fmt: skip
        served.stop()
        return {"case": name, "transport": transport, **_row(finished, served.truth())}


def _row(finished: Finished, truth: pa.Table) -> dict[str, Any]:
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
    chosen = parser.parse_args()
    if unknown := set(chosen.cases) - set(CASES):
        sys.exit(f"unknown case {unknown.pop()!r}; there are {', '.join(CASES)}")
    for name in chosen.cases or CASES:
        save("accuracy", measure(name, chosen.transport))


if __name__ == "__main__":
    main()
