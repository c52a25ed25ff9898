import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import runs_of_requests, seldom
from synthetic import MS, START_NS, S, row, stage_plan, write_run

from analysis import closeups
from analysis.summary import analyse


def details_of(run_dir):
    (details,) = analyse(run_dir).details.values()
    return details


@seldom
@given(runs_of_requests, st.integers(1, 9))
def test_close_ups_tell_of_a_request_what_the_capture_holds(tmp_path_factory, requests, batch_rows):
    for number, request in enumerate(requests):
        request["request_id"] = number
    details = details_of(write_run(tmp_path_factory.mktemp("run"), requests, batch_rows=batch_rows))
    stop_ns = START_NS + 10 * S
    sent = [r for r in requests if r.get("error") != "dropped" and START_NS <= reference.due(r) < stop_ns]
    assert sorted(one.request_id for one in details.sample) == [r["request_id"] for r in sent]
    by_id = {r["request_id"]: r for r in requests}
    for one in details.sample:
        r = by_id[one.request_id]
        assert (one.due_ns, one.sent_ns, one.outcome) == (reference.due(r), r["sent_ns"], r["error"])
        assert one.first_ns == (r["event_ns"][0] if r["event_ns"] else None)
        assert one.last_ns == (r["event_ns"][-1] if r["event_ns"] else None)
        assert (one.events, one.output_tokens) == (len(r["event_ns"]), reference.output_tokens(r))
        assert one.pause_ns == max(reference.gaps(r), default=0)
        assert (one.pause_from_ns is None) == (len(r["event_ns"]) < 2)
        assert one.prompt_tokens == r["prompt_tokens"]
    completed = [r for r in sent if r["error"] is None and r["event_ns"]]
    for kept, at in ((details.slowest_ttft, 0), (details.slowest_e2e, -1)):
        waits = sorted((r["event_ns"][at] - reference.due(r) for r in completed), reverse=True)
        seen = [(one.first_ns if at == 0 else one.last_ns) - one.due_ns for one in kept]
        assert seen == waits[: closeups.SLOWEST]


def test_the_slowest_are_found_among_many_and_the_sample_does_not_depend_on_the_batches(tmp_path):
    rows = [row(START_NS + n * MS, [START_NS + (n + 40 + n % 97) * MS], request_id=n) for n in range(5_000)]
    samples = []
    for batch_rows in (64, 999):
        details = details_of(write_run(tmp_path / f"{batch_rows}", rows, [stage_plan()], batch_rows=batch_rows))
        samples.append([one.request_id for one in details.sample])
        assert {one.request_id % 97 for one in details.slowest_ttft} == {96}
        assert len(details.slowest_ttft) == closeups.SLOWEST
    assert samples[0] == samples[1]


def test_a_large_stage_leaves_an_even_sample_of_it(tmp_path):
    count = 3 * closeups.SAMPLED
    rows = [row(START_NS + n * S // 1000, [START_NS + n * S // 1000 + MS], request_id=n) for n in range(count)]
    sample = details_of(write_run(tmp_path, rows, [stage_plan(duration_s=10.0)], batch_rows=500)).sample
    assert len(sample) == closeups.SAMPLED
    thirds = [
        sum(third * count / 3 <= one.request_id < (third + 1) * count / 3 for one in sample) for third in range(3)
    ]
    assert thirds == [pytest.approx(closeups.SAMPLED / 3, rel=0.15)] * 3


def test_a_servers_long_id_is_cut(tmp_path):
    rows = [row(START_NS, [START_NS + MS], response_id="x" * 5_000)]
    (one,) = details_of(write_run(tmp_path, rows)).sample
    assert one.response_id == "x" * closeups.MOST_ID_CHARS
