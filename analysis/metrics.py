"""TTFT, ITL, TPOT, E2E and their kin: one function a definition.

Each takes Rows and gives int64 ns. Functions of a request give one value a request, ABSENT where the definition does not
apply (no output, one event, no schedule ...); `gap_ns` and `gap_per_token_ns` pool over requests. Which requests are
asked about is decided elsewhere (window.py); one that failed, was left by its user or was never sent is not among them.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analysis.rows import ABSENT, Integers, Mask, Rows
from loadgen.schema import EventKind


def present(values: Integers) -> Integers:
    """Without the ABSENT ones."""
    absent = values == ABSENT
    return values[~absent] if absent.any() else values


def _between(earlier_ns: Integers, later_ns: Integers) -> Integers:
    known = (earlier_ns != ABSENT) & (later_ns != ABSENT)
    return np.where(known, np.subtract(later_ns, earlier_ns, where=known, out=np.zeros_like(later_ns)), ABSENT)


def due_ns(rows: Rows) -> Integers:
    """When a request's user began to wait: its intended time; where it has none (closed loop), the send."""
    scheduled = rows.intended_ns != ABSENT
    return np.where(scheduled, rows.intended_ns, rows.sent_ns) if scheduled.any() else rows.sent_ns


def lateness_ns(rows: Rows) -> Integers:
    """Sent - intended: the client's own delay, and the wait for a place in flight.

    ABSENT for a request that was refused at first: when it was sent again is the server's doing, and the send before that is
    in no row.
    """
    return np.where(rows.retries > 0, ABSENT, _between(rows.intended_ns, rows.sent_ns))


def first_output_ns(rows: Rows) -> Integers:
    """The stamp of each request's first output event."""
    return _event_at(rows, rows.first_event)


def last_output_ns(rows: Rows) -> Integers:
    """The stamp of each request's last output event."""
    return _event_at(rows, rows.first_event + rows.events - 1)


def _event_at(rows: Rows, position: Integers) -> Integers:
    if not len(rows.event_ns):
        return np.full(len(rows), ABSENT)
    some = rows.events > 0
    return np.where(some, rows.event_ns[np.where(some, position, 0)], ABSENT)


def ttft_ns(rows: Rows) -> Integers:
    """Time to first token: first output event - sent. Reasoning is output; a role-only or empty event is none.

    Source: docs of vLLM, SGLang and NVIDIA's NIM metrics page; connecting is not in it, since sent is after connecting.
    """
    return _between(rows.sent_ns, first_output_ns(rows))


def ttft_intended_ns(rows: Rows) -> Integers:
    """TTFT from the due time, so that a late send is the user's wait too (coordinated omission, Tene 2015)."""
    return _between(rows.intended_ns, first_output_ns(rows))


def ttfa_ns(rows: Rows) -> Integers:
    """Time to first answer: first event that is no reasoning - sent; only of requests that reasoned."""
    if rows.event_kind is None:
        return np.full(len(rows), ABSENT)
    reasoning = rows.event_kind == EventKind.REASONING
    answers = np.flatnonzero(~reasoning)
    reasoned = _sums(reasoning, rows) > 0
    if not len(answers):
        return np.full(len(rows), ABSENT)
    # The first answer at or after the request's first event, if it is still the request's own.
    found = np.searchsorted(answers, rows.first_event)
    at = answers[np.minimum(found, len(answers) - 1)]
    own = reasoned & (found < len(answers)) & (at < rows.first_event + rows.events)
    return np.where(own, rows.event_ns[at] - rows.sent_ns, ABSENT)


def e2e_ns(rows: Rows) -> Integers:
    """End to end: last output event - sent. Usage, end sign and trailers after it are not waited for by anybody."""
    return _between(rows.sent_ns, last_output_ns(rows))


def e2e_intended_ns(rows: Rows) -> Integers:
    """E2E from the due time."""
    return _between(rows.intended_ns, last_output_ns(rows))


def end_of_stream_ns(rows: Rows) -> Integers:
    """Last byte of the response - sent: the slot is free again."""
    return _between(rows.sent_ns, rows.last_byte_ns)


def connect_ns(rows: Rows) -> Integers:
    """Time to connect (and for TLS), of the requests that paid for a connection."""
    return rows.connect_ns


def tpot_ns(rows: Rows) -> Integers:
    """Time per output token: (last - first output event) / (output tokens - tokens in the first event), rounded to ns.

    That is the usual / (n - 1) where the first event carries one token or does not say. ABSENT with one event, or when
    no token is left to divide by. Source: MLPerf Inference's TPOT and vLLM's benchmark, generalised to events of many
    tokens.
    """
    in_first = np.ones(len(rows), np.int64)
    if rows.event_tokens is not None and len(rows.event_tokens):
        first = np.minimum(rows.first_event, len(rows.event_tokens) - 1)
        in_first = np.where(rows.told_tokens & (rows.events > 0), rows.event_tokens[first], 1)
    after_first = output_tokens(rows) - in_first
    some = (rows.events > 1) & (after_first > 0)
    span = np.where(some, _between(first_output_ns(rows), last_output_ns(rows)), 0)
    return np.where(some, np.rint(span / np.where(some, after_first, 1)).astype(np.int64), ABSENT)


def gap_ends(rows: Rows) -> Mask:
    """Over the flat events from the second on: whether the gap before it lies within one request."""
    ends = np.ones(max(len(rows.event_ns) - 1, 0), np.bool_)
    borders = rows.first_event[(rows.first_event > 0) & (rows.events > 0)] - 1
    ends[borders] = False
    return ends


def gap_ns(rows: Rows) -> Integers:
    """Inter-token latency: every gap between consecutive output events of one request, pooled. A single event has none.

    Source: the ITL of vLLM's and SGLang's benchmarks.
    """
    gaps: Integers = np.diff(rows.event_ns)[gap_ends(rows)]
    return gaps


def gap_per_token_ns(rows: Rows) -> Integers:
    """Each gap divided by the tokens of the event that ends it (1 where nobody told), rounded to ns."""
    gaps = gap_ns(rows)
    if rows.event_tokens is None:
        return gaps
    tokens = np.maximum(rows.event_tokens[1:][gap_ends(rows)], 1)
    return np.rint(gaps / tokens).astype(np.int64)


def output_tokens(rows: Rows) -> Integers:
    """Output tokens a request: as usage says, else the sum of its event tokens, else a local tokenizer, else its events."""
    told = rows.output_tokens != ABSENT
    counted = np.where(rows.counted_tokens != ABSENT, rows.counted_tokens, rows.events)
    if rows.event_tokens is not None:
        counted = np.where(rows.told_tokens, _sums(rows.event_tokens, rows), counted)
    return np.where(told, rows.output_tokens, counted)


def tokens_per_event(rows: Rows) -> NDArray[np.float64] | None:
    """Tokens of each event: as told, else the request's tokens spread evenly over its events; None when all are 1.

    Spreading keeps the sum right where the server's events hold several tokens and only its usage counts them.
    """
    if rows.event_tokens is not None and rows.told_tokens.all():
        return rows.event_tokens.astype(np.float64)
    a_request = output_tokens(rows) / np.maximum(rows.events, 1)
    if rows.event_tokens is None:
        return None if np.all((a_request == 1) | (rows.events == 0)) else np.repeat(a_request, rows.events)
    spread = np.repeat(a_request, rows.events)
    return np.where(np.repeat(rows.told_tokens, rows.events), rows.event_tokens, spread)


def gaps_over(rows: Rows, limit_ns: float) -> Integers:
    """How many gaps of each request are longer than a limit."""
    if len(rows.event_ns) < 2:
        return np.zeros(len(rows), np.int64)
    over = np.zeros(len(rows.event_ns), np.int64)
    over[1:] = (np.diff(rows.event_ns) > limit_ns) & gap_ends(rows)
    return _sums(over, rows)


def _sums(values: NDArray[np.generic], rows: Rows) -> Integers:
    """The sum over each request's events; 0 for a request without (which np.add.reduceat alone would get wrong)."""
    sums = np.zeros(len(rows), np.int64)
    some = rows.events > 0
    if some.any():
        sums[some] = np.add.reduceat(values, rows.first_event[some], dtype=np.int64)
    return sums


A_REQUEST: Final[dict[str, Callable[[Rows], Integers]]] = {
    "ttft": ttft_ns,
    "ttft_intended": ttft_intended_ns,
    "ttfa": ttfa_ns,
    "tpot": tpot_ns,
    "e2e": e2e_ns,
    "e2e_intended": e2e_intended_ns,
    "end_of_stream": end_of_stream_ns,
    "connect": connect_ns,
}
"""The latencies of a request by the name that summary.json and the histogram log use (there with `_ms` behind)."""
