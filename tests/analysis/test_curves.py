import pytest
from synthetic import START_NS, S, mark, open_plan, row, stage_plan, steady_rows, write_run

from analysis.summary import summarize


def repeated(tmp_path, ttfts_ms, concurrency=2):
    """Stages of one and the same load, one behind the other, each with its own TTFT."""
    rows, plans, marks = [], [], []
    for number, ttft_ms in enumerate(ttfts_ms):
        start_ns = START_NS + number * 20 * S
        rows += steady_rows(concurrency, start_ns=start_ns, ttft_ms=ttft_ms, stage=number)
        plans.append(
            stage_plan(number, name=f"concurrency {concurrency}", load={"mode": "concurrency", "value": concurrency})
        )
        marks.append(mark(number, start_ns))
    return summarize(write_run(tmp_path, rows, plans, marks))


def test_a_run_without_repeats_has_a_point_a_stage_with_the_interval_within_it(tmp_path):
    told = summarize(write_run(tmp_path, steady_rows()))
    (point,) = told["curve"]
    (stage,) = told["stages"]
    assert point["stages"] == [0]
    assert point["output_tokens_per_s"]["value"] == stage["output_tokens_per_s"]
    assert point["output_tokens_per_s"]["repeats"] is None
    low, high = stage["intervals"]["output_tokens_per_s"]
    assert (point["output_tokens_per_s"]["low"], point["output_tokens_per_s"]["high"]) == (low, high)
    assert low <= stage["output_tokens_per_s"] <= high
    assert point["ttft_ms"]["p50"]["value"] == pytest.approx(50, rel=2e-3)
    assert point["tokens_per_s_per_user"] == pytest.approx(200, rel=2e-3)
    assert point["concurrency"] == stage["concurrency"]["mean"]
    assert point["saturated"] is False


def test_an_interval_whose_end_so_few_requests_do_not_tell_is_open(tmp_path):
    told = summarize(write_run(tmp_path, steady_rows()))
    (point,), (stage,) = told["curve"], told["stages"]
    assert 64 <= stage["ttft_ms"]["count"] < 367
    low, high = stage["intervals"]["ttft_ms"]["p99"]
    assert (low is None, high) == (False, None)
    assert (point["ttft_ms"]["p99"]["low"], point["ttft_ms"]["p99"]["high"]) == (low, None)
    assert None not in stage["intervals"]["ttft_ms"]["p50"]


def test_repeats_are_one_point_whose_interval_is_between_them(tmp_path):
    told = repeated(tmp_path, [40, 50, 60])
    (point,) = told["curve"]
    assert point["stages"] == [0, 1, 2]
    ttft = point["ttft_ms"]["p50"]
    # The median of all requests, and Student's interval over the three medians: 4.303 x 10 / sqrt(3).
    assert ttft["value"] == pytest.approx(50, rel=2e-3)
    assert ttft["high"] - ttft["value"] == pytest.approx(24.84, rel=1e-2)
    assert len(ttft["repeats"]) == 3
    rates = [stage["output_tokens_per_s"] for stage in told["stages"]]
    assert point["output_tokens_per_s"]["value"] == pytest.approx(sum(rates) / 3)


def test_percentiles_of_repeats_are_those_of_all_their_requests_and_no_average(tmp_path):
    (point,) = repeated(tmp_path, [40, 40, 40, 400])["curve"]
    assert point["ttft_ms"]["p50"]["value"] == pytest.approx(40, rel=2e-3)
    assert point["ttft_ms"]["p99"]["value"] == pytest.approx(400, rel=2e-3)


def test_points_go_by_load_whatever_the_order_of_the_stages(tmp_path):
    plans = [stage_plan(number, load={"mode": "concurrency", "value": value}) for number, value in enumerate((8, 2, 4))]
    starts = [START_NS + number * 20 * S for number in range(3)]
    rows = [one for n, start_ns in enumerate(starts) for one in steady_rows(2, start_ns=start_ns, stage=n)]
    told = summarize(write_run(tmp_path, rows, plans, [mark(n, start_ns) for n, start_ns in enumerate(starts)]))
    assert [point["load"]["value"] for point in told["curve"]] == [2, 4, 8]
    assert [point["stages"] for point in told["curve"]] == [[1], [2], [0]]


def test_a_stage_that_only_warms_up_is_no_result_but_tells_how_a_prompt_is_counted(tmp_path):
    plans = [stage_plan(0, warms_up=True, requests=2), stage_plan(1)]
    rows = [
        row(START_NS + i * S, [START_NS + i * S + 50_000_000], prompt_tokens=count) for i, count in enumerate((18, 22))
    ]
    rows += steady_rows(4, start_ns=START_NS + 20 * S, stage=1)
    marks = [mark(0), mark(1, START_NS + 20 * S)]
    spec = {"model": "m", "slo": None, "input_tokens": 16, "prefix_tokens": 0, "turns": None}
    told = summarize(write_run(tmp_path, rows, plans, marks, spec=spec))
    assert [stage["stage"] for stage in told["stages"]] == [1]
    assert len(told["curve"]) == 1
    assert told["warm_up"] == {
        "requests": 2,
        "prompt_tokens": {"wanted": 16, "mean": 20.0, "min": 18, "max": 22, "off_share": 0.25},
    }
    assert told["verdict"]["reasons"] == []


def test_a_backlog_that_grows_is_seen_in_the_summary_and_doubted(tmp_path):
    """100/s come due, 50/s are answered, all from one queue."""
    rows = []
    for number in range(1000):
        due_ns = START_NS + number * 10_000_000
        done_ns = START_NS + number * 20_000_000 + 50_000_000
        rows.append(row(due_ns, [done_ns - 5_000_000, done_ns], request_id=number, intended_ns=due_ns))
    ended = [mark(0, done_ns=START_NS + 21 * S)]
    told = summarize(write_run(tmp_path, rows, [open_plan()], ended))
    (stage,) = told["stages"]
    assert stage["backlog"]["grows"]
    assert stage["backlog"]["growth_per_s"] == pytest.approx(50, rel=0.05)
    assert told["curve"][0]["saturated"]
    assert "over-saturated" in {reason["code"] for reason in told["verdict"]["reasons"]}
