"""A capture against the simulator's truth log: how wrong each stamp is, and what either side has that the other lacks.

Truth: the simulator notes CLOCK_MONOTONIC just before the send that carries each event. Error of a stamp = the client's
event_ns - that. Error of a TTFT = the measured TTFT - (true send time of the first event - sent_ns): what the client
added. `ttft_server` is the server's own view, first event - request read, for comparison: it lacks the time that the
request lay in the server's socket, which the client's TTFT has to hold.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def joined(captured: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """The errors of every stamp, and the accounts: rows and tokens on either side that the other does not have.

    `stamp_error_us` and `ttft_error_us` are None where no request is on both sides.
    """
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
        if not len(mine):
            continue
        errors.append(mine - true)
        ttft_errors_ns.append(mine[0] - true[0])
        ttft_ns.append(mine[0] - sent_ns[i])
        ttft_server_ns.append(true[0] - request_read_ns[j])
    stamp_us = np.concatenate(errors) / 1000 if errors else np.empty(0)
    return {
        "requests": len(captured),
        "tokens": len(stamp_us),
        "unknown_requests": unknown,
        "duplicate_requests": len(captured) - len(set(captured["response_id"].to_pylist())),
        "lost_tokens": lost,
        "invented_tokens": invented,
        "stamp_error_us": figures(stamp_us) if errors else None,
        "ttft_error_us": figures(np.array(ttft_errors_ns) / 1000) if errors else None,
        "ttft_p50_ms": round(float(np.median(ttft_ns)) / 1e6, 3) if errors else None,
        "ttft_server_p50_ms": round(float(np.median(ttft_server_ns)) / 1e6, 3) if errors else None,
    }


def figures(values_us: NDArray[Any]) -> dict[str, float]:
    """p50, p99, p99.9 and the extremes of a sample, us."""
    p50, p99, p999 = np.percentile(values_us, [50, 99, 99.9])
    return {
        name: round(float(value), 2)
        for name, value in (
            ("p50", p50),
            ("p99", p99),
            ("p99_9", p999),
            ("min", values_us.min()),
            ("max", values_us.max()),
        )
    }


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[Any]]:
    lengths = np.array(column.combine_chunks().value_lengths().fill_null(0))
    return column.combine_chunks().flatten().to_numpy(), np.concatenate([[0], np.cumsum(lengths)])
