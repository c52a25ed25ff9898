import copy
import json

import pytest
from synthetic import START_NS, S, mark, open_plan, row, stage_plan, steady_rows, write_run

from analysis import saturation
from analysis.search import Answer, Interval
from analysis.summary import summarize


@pytest.fixture
def stage(tmp_path):
    spec = {"model": "m", "slo": {"ttft": {"percentile": 90.0, "limit_ms": 60.0}}}
    return summarize(write_run(tmp_path, steady_rows(), spec=spec))["stages"][0]


def test_a_stage_of_an_idle_client_tells_of_the_endpoint_however_late_it_read(stage):
    assert saturation.client_limits(stage) == []
    stage["client"]["lag_us"] |= {"p50": 1e6, "p99": 1e6}
    stage["client"]["coalesced_share"] = 0.5
    assert saturation.client_limits(stage) == []


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ({"cpu_share": [0.2, 0.97]}, "was busy 97% of the time"),
        ({"cpu_share": [0.5], "lag_us": {"p50": 9e4, "p99": 9e4}}, "they merge"),
        ({"cpu_share": [0.5], "coalesced_share": 0.2}, "20.0% of the events came in one read"),
        ({"cpu_share": [0.5], "lateness_us": {"count": 99, "p50": 9000.0}}, "half of the sends were 9,000 us late"),
    ],
)
def test_a_busy_client_that_goes_bad_is_named_with_what_to_do(stage, client, words):
    stage["client"] |= client
    stage["by_worker"] = stage["by_worker"] * 2
    (reason,) = saturation.client_limits(stage)
    assert words in reason
    assert "try" in reason
    assert saturation.points([stage])[0].client == (reason,)


def test_a_disturbance_counts_when_it_happens_twice_and_a_lack_of_cpu_at_once(stage):
    late = copy.deepcopy(stage)
    late["client"] |= {"cpu_share": [0.5], "coalesced_share": 0.2}
    assert saturation.disturbed([late]) == 2
    assert saturation.disturbed([late, stage]) is None
    (point,) = saturation.points([late, stage])
    assert (point.client, point.stages) == ((), 1)  # the one that was not disturbed stands for the load
    assert saturation.points([late, late])[0].client
    busy = copy.deepcopy(stage)
    busy["client"]["cpu_share"] = [0.97]
    assert saturation.disturbed([busy]) is None


def test_an_objective_is_decided_over_all_stages_of_a_load(stage):
    # 142 of 142 requests meet it; 90 % is certain by then.
    (point,) = saturation.points([stage])
    assert (point.meets, point.leans) == (True, True)
    assert point.strain == pytest.approx(50 / 60, rel=0.01)
    few = copy.deepcopy(stage)
    few["slo"]["ttft"]["attained"] |= {"requests": 20, "met": 20, "worth": 20.0}
    assert saturation.points([few])[0].meets is None
    assert saturation.points([few, few, few])[0].meets is True
    missed = copy.deepcopy(stage)
    missed["slo"]["ttft"]["attained"] |= {"met": 60}
    assert (saturation.points([missed])[0].meets, saturation.points([missed])[0].leans) == (False, False)
    failing = copy.deepcopy(stage)
    failing["requests"] |= {"sent": 100, "failed": 51}
    assert saturation.points([failing])[0].meets is False


def test_a_load_that_is_not_kept_up_with_has_the_throughput_of_its_full_half(tmp_path):
    """100/s come due from the start; 2 tokens a request are served at 50/s, but only from the middle of the window on."""
    rows = []
    for number in range(1000):
        due_ns = START_NS + number * 10_000_000
        done_ns = START_NS + 5 * S + number * 20_000_000
        rows.append(row(due_ns, [done_ns, done_ns + 1_000_000], request_id=number, intended_ns=due_ns, output_tokens=2))
    (stage,) = summarize(write_run(tmp_path, rows, [open_plan()], [mark(0, done_ns=START_NS + 26 * S)]))["stages"]
    assert stage["output_tokens_per_s"] == pytest.approx(50, rel=0.02)
    (point,) = saturation.points([stage])
    assert point.saturated
    assert (point.meets, point.leans) == (False, False)
    assert point.output_tokens_per_s.value == pytest.approx(100, rel=0.02)
    assert point.requests_per_s.value == pytest.approx(50, rel=0.02)


def test_the_document_is_json_with_open_ends_as_null(stage, tmp_path):
    answer = Answer(Interval(2, 2, 64), Interval(300.0, 290.0, float("inf")), "client", ("busy",), True)
    points = saturation.points([stage])
    told = saturation.document("knee", "concurrency", answer, points, [stage])
    saturation.write(tmp_path, told)
    assert saturation.read(tmp_path) == told == json.loads((tmp_path / "saturation.json").read_text())
    assert told["load"] == {"mode": "concurrency", "value": 2, "low": 2, "high": 64}
    assert told["output_tokens_per_s"] == {"value": 300.0, "low": 290.0, "high": None}
    assert told["points"][0]["stages"] == [0]


def test_what_is_no_answer_is_not_read(tmp_path):
    assert saturation.read(tmp_path) is None
    (tmp_path / "saturation.json").write_text("{")
    assert saturation.read(tmp_path) is None
    (tmp_path / "saturation.json").write_text('{"schema": 99}')
    assert saturation.read(tmp_path) is None


def test_stages_of_one_load_are_one_point(stage, tmp_path):
    other = summarize(
        write_run(tmp_path / "x", steady_rows(4), [stage_plan(0, load={"mode": "concurrency", "value": 4})])
    )
    assert [point.load for point in saturation.points([stage, *other["stages"], stage])] == [2, 4]
