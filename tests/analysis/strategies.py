"""Hypothesis: latencies, and requests as a worker may write them."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from synthetic import MS, START_NS, S, row

often = settings(deadline=None)
seldom = settings(max_examples=30, deadline=None)
"""For laws whose examples are slow to draw or to check. No deadline: a busy machine is no failure."""

latencies_ns = st.lists(
    st.one_of(st.integers(0, 5_000), st.integers(0, 10**9), st.integers(0, 3_600 * S)), min_size=1, max_size=200
)

ERRORS = ("timeout-idle", "http-429", "truncated", "unfinished", "cancelled", "cancelled")


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """One request: any number of events, told or untold tokens and kinds, before, in or after a window; completed,
    failed, left by its user or never sent; with or without a schedule, a session, refusals before it.
    """
    schedule: dict[str, Any] = {
        "retries": draw(st.sampled_from((0, 0, 1, 3))),
        "session_id": draw(st.one_of(st.none(), st.integers(0, 9))),
    }
    schedule["turn"] = None if schedule["session_id"] is None else draw(st.integers(0, 3))
    sent_ns = START_NS + draw(st.integers(-2_000, 12_000)) * MS
    gaps = draw(st.lists(st.one_of(st.just(0), st.integers(1, 400 * MS)), max_size=12))
    waited_ns = st.one_of(st.integers(0, 9 * MS), st.integers(0, 3 * S))
    schedule["intended_ns"] = draw(st.one_of(st.none(), waited_ns.map(lambda ns: sent_ns - ns)))
    if draw(st.integers(0, 7)) == 0:  # a worker has nothing to tell of it; what it says all the same must not count
        return row(sent_ns, error="dropped", status=None, prompt_tokens=draw(st.sampled_from((None, 7))), **schedule)
    t_ns = sent_ns + draw(st.integers(1, 900 * MS))
    events = []
    for gap in gaps:
        events.append(t_ns)
        t_ns += gap
    error = draw(st.one_of(st.none(), st.none(), st.sampled_from(ERRORS))) if events else "empty"
    last_byte_ns = draw(st.one_of(st.none(), st.just(sent_ns))) if not events else t_ns
    size = len(events)
    return row(
        sent_ns,
        events,
        last_byte_ns=last_byte_ns,
        ended_ns=(last_byte_ns or sent_ns) + draw(st.integers(0, 3 * MS)),
        error=error,
        connect_ns=draw(st.one_of(st.none(), st.integers(1, 10 * MS))),
        event_kind=draw(st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=size, max_size=size))),
        event_tokens=draw(st.one_of(st.none(), st.lists(st.integers(0, 5), min_size=size, max_size=size))),
        output_tokens=draw(st.one_of(st.none(), st.integers(0, 40))),
        prompt_tokens=draw(st.one_of(st.none(), st.integers(1, 4_000))),
        coalesced_events=draw(st.integers(0, size)),
        max_lag_ns=draw(st.integers(0, 5 * MS)),
        kernel_stamps=draw(st.booleans()),
        **schedule,
    )


runs_of_requests = st.lists(requests(), min_size=1, max_size=25)
"""The requests of one stage, in the order in which they ended."""
