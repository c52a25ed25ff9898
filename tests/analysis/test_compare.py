from pathlib import Path

import numpy as np
import pytest
from synthetic import MS, START_NS, S, mark, open_plan, row, stage_plan, write_run

from analysis import compare
from analysis.blocks import INTERVALS, Blocks, Table, stage_blocks
from analysis.cells import Cells
from analysis.compare import NO_EVIDENCE, TOO_FEW, TOO_SHORT, Loaded, changes, doubts, load, matches
from analysis.histogram import PLACES, highest_equivalent
from analysis.opened import opened


def wandering(rng, n):
    """A series of deviation 1 of which some 50 neighbours are alike."""
    noise = rng.normal(0, 1, n)
    for k in range(1, n):
        noise[k] = 0.98 * noise[k - 1] + 0.199 * noise[k]
    return noise


def waiting_rows(seed, ttft_ms=50.0, gap_ms=5.0, failed=0.0, start_ns=START_NS, requests=1500, **facts):
    """Requests every 6 ms whose TTFT wanders: neighbours are alike, as they are in a queue."""
    rng = np.random.default_rng(seed)
    wander = wandering(rng, requests)
    rows = []
    for k in range(requests):
        sent_ns = start_ns + k * 6 * MS
        first_ns = sent_ns + round(ttft_ms * MS * float(np.exp(0.15 * wander[k])))
        events = (first_ns + np.cumsum(rng.normal(gap_ms, 0.3, 6) * MS).astype(np.int64)).tolist()
        error = "http-500" if rng.random() < failed else None
        rows.append(row(sent_ns, events, request_id=k, error=error, **facts))
    return sorted(rows, key=lambda one: one["ended_ns"])


def loaded(folder: Path, rows, plans=None, marks=None, **options) -> Loaded:
    (one,) = load([write_run(folder, rows, plans, marks, **options)])
    return one


def by_name(found):
    return {one.name: one for one in found}


def compared(before: Loaded, after: Loaded):
    (match,) = matches(before.summary, after.summary)
    return by_name(changes(before, after, match))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("base"), waiting_rows(1))


def test_the_same_server_twice_is_no_evidence_of_a_difference(base, tmp_path):
    found = compared(base, loaded(tmp_path, waiting_rows(2)))
    for one in found.values():
        assert one.method == "blocks", one.name
        assert one.statement in (NO_EVIDENCE, TOO_FEW, "the same"), one.name
    assert (found["errors"].statement, found["errors"].change) == ("the same", 0)


def table_of(values_ns):
    """A run of requests at an even pace."""
    intervals = np.arange(len(values_ns)) * INTERVALS // len(values_ns)
    cells = Cells()
    cells.add(intervals, values_ns.astype(np.int64))
    keys, counts = cells.settled()
    used, column = np.unique(keys % PLACES, return_inverse=True)
    table = np.zeros((INTERVALS, len(used)))
    table[keys // PLACES, column] = counts
    return Table(table, highest_equivalent(used).astype(float), np.bincount(intervals, values_ns, INTERVALS))


def test_a_difference_is_claimed_where_there_is_none_about_as_seldom_as_the_interval_says():
    """40 pairs of runs of one server whose TTFT wanders, some 50 requests alike: counted one by one they would differ in
    half of all pairs.
    """
    rng = np.random.default_rng(7)
    claimed = naive = 0
    for _ in range(40):
        pair = [50e6 * np.exp(0.15 * wandering(rng, 1_500)) for _ in range(2)]
        tables = {name: table_of(values) for name, values in zip("ab", pair, strict=True)}
        blocks = [Blocks(1.0, {}, {"ttft": tables[name]}) for name in "ab"]
        drawn = compare._drawn_latencies(
            *(Loaded(Path(), name, {}, {0: one}) for name, one in zip("ab", blocks, strict=True)),
            compare.Match({}, "", [{"stage": 0}], [{"stage": 0}]),
            "ttft",
        )
        means = [float(np.mean(values)) / 1e6 for values in pair]
        one = compare._change(
            "ttft",
            "mean",
            [[means[0]], [means[1]]],
            compare.Drawn(drawn.before[:, 0], drawn.after[:, 0], drawn.factor),
            True,
        )
        claimed += one.statement != NO_EVIDENCE
        noise = np.sqrt(sum(np.var(values) / len(values) for values in pair)) / 1e6
        naive += abs(means[1] - means[0]) > 1.96 * noise
    assert claimed <= 5
    assert naive >= 20


def test_a_slower_decode_is_slower_and_a_faster_one_faster(base, tmp_path):
    slower = compared(base, loaded(tmp_path / "slower", waiting_rows(2, gap_ms=5.5)))
    for name in ("tpot.mean", "tpot.p50", "tpot.p99", "itl.p50", "itl.p99"):
        one = slower[name]
        assert one.statement == "slower", name
        assert one.interval.low < one.change < one.interval.high
        assert one.change == pytest.approx((one.after - one.before) / one.before)
    assert slower["tpot.p50"].interval.low < 0.1 < slower["tpot.p50"].interval.high
    assert compared(base, loaded(tmp_path / "faster", waiting_rows(2, gap_ms=4.5)))["itl.p90"].statement == "faster"


def test_values_are_those_of_the_summaries(base, tmp_path):
    other = loaded(tmp_path, waiting_rows(2))
    found = compared(base, other)
    for metric in ("ttft", "tpot", "itl", "e2e"):
        for statistic in ("mean", "p50", "p99"):
            one = found[f"{metric}.{statistic}"]
            assert one.before == base.summary["stages"][0][f"{metric}_ms"][statistic]
            assert one.after == other.summary["stages"][0][f"{metric}_ms"][statistic]


def test_more_failures_are_more_and_in_points(base, tmp_path):
    one = compared(base, loaded(tmp_path, waiting_rows(3, failed=0.2)))["errors"]
    assert one.statement == "more"
    assert one.change == pytest.approx(one.after)
    assert 0.1 < one.interval.low < 0.2 < one.interval.high < 0.3


def test_a_percentile_without_enough_samples_is_not_spoken_of(base, tmp_path):
    few = loaded(tmp_path, waiting_rows(4, ttft_ms=500.0, requests=400))
    found = compared(base, few)
    assert found["ttft.p99"].statement == TOO_FEW
    assert not found["ttft.p99"].reliable
    assert found["ttft.p50"].reliable


def test_a_percentile_of_few_still_has_the_end_of_its_interval_that_is_known(base, tmp_path):
    few = loaded(tmp_path / "few", waiting_rows(9, requests=200))
    found = compared(base, few)
    low, high = few.summary["stages"][0]["intervals"]["ttft_ms"]["p99"]
    assert found["ttft.p99"].reliable is False
    assert found["ttft.p99"].after_within == (low, high) == (low, None)
    assert low > 0
    assert found["itl.p99"].after_within == found["requests_per_s"].after_within == (None, None)


def test_a_stage_that_is_one_burst_is_too_short_to_tell(base, tmp_path):
    """Two thousand requests of one moment have met in one queue: they are one sample of it."""
    burst = [row(START_NS + S, [START_NS + S + k * MS for k in (60, 65)], request_id=k) for k in range(2_000)]
    one = compared(base, loaded(tmp_path, burst))["ttft.p50"]
    assert (one.statement, one.interval) == (TOO_SHORT, None)
    assert one.change == pytest.approx(0.2, abs=0.1)


def test_differences_below_the_resolution_of_counts_are_none(base, tmp_path):
    """Two runs without any noise that fall on either side of the border between two places."""
    one, other = (
        [
            row(START_NS + k * 6 * MS, [START_NS + k * 6 * MS + first_ns + j * gap_ns for j in range(8)])
            for k in range(1_500)
        ]
        for first_ns, gap_ns in ((50 * MS, 5_242_000), (50 * MS, 5_243_500))
    )
    found = compared(loaded(tmp_path / "one", one), loaded(tmp_path / "other", other))
    assert found["itl.p50"].change == pytest.approx(0.000286, rel=0.01)
    assert found["itl.p50"].statement == NO_EVIDENCE


def repeats(folder, gaps_ms):
    plans = [stage_plan(k, name="concurrency 2", load={"mode": "concurrency", "value": 2}) for k in range(len(gaps_ms))]
    marks = [mark(k, START_NS + k * 20 * S) for k in range(len(gaps_ms))]
    rows = [
        one
        for k, gap_ms in enumerate(gaps_ms)
        for one in waiting_rows(k, gap_ms=gap_ms, start_ns=START_NS + k * 20 * S, requests=300, stage=k)
    ]
    return loaded(folder, rows, plans, marks)


def test_repeats_are_compared_by_what_differs_between_them(tmp_path):
    """Each repeat is exact to a thousandth, but they differ by a tenth: so does anything between two sets of them."""
    wide = repeats(tmp_path / "wide", [5.0, 5.5, 4.6])
    other = repeats(tmp_path / "other", [5.3, 4.9, 5.5])
    one = compared(wide, other)["tpot.p50"]
    assert (one.method, one.statement) == ("repeats", NO_EVIDENCE)
    assert one.interval.high - one.interval.low > 0.15
    (point,) = wide.summary["curve"]
    assert one.before == pytest.approx(point["tpot_ms"]["p50"]["value"], rel=0.001)  # of all requests of all repeats
    close = compared(repeats(tmp_path / "a", [5.0, 5.01, 4.99]), repeats(tmp_path / "b", [5.5, 5.51, 5.49]))["tpot.p50"]
    assert close.statement == "slower"
    assert close.interval.low < 0.1 < close.interval.high


def test_repeats_against_a_single_stage_are_resampled_together(tmp_path):
    single = loaded(tmp_path / "single", waiting_rows(9, gap_ms=5.5))
    one = compared(repeats(tmp_path / "many", [5.0, 5.02]), single)["tpot.p50"]
    assert (one.method, one.statement) == ("blocks", "slower")


def test_stages_are_matched_by_their_load(tmp_path):
    plans, marks = [stage_plan(0), stage_plan(1), stage_plan(2)], [mark(0), mark(1), mark(2)]
    one = write_run(tmp_path / "one", [], plans, marks)
    plans = [stage_plan(0, load={"mode": "concurrency", "value": 4}), stage_plan(1, load={"mode": "rate", "value": 2})]
    other = write_run(tmp_path / "other", [], plans, [mark(0), mark(1)])
    first, second = load([one, other])
    assert [match.load["value"] for match in matches(first.summary, second.summary)] == [4]
    shuffled = {"stages": first.summary["stages"][::-1]}
    assert [match.load["value"] for match in matches(shuffled, first.summary)] == [2, 4, 8]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"output_tokens": 64}, "output_tokens differs: 128 and 64"),
        ({"input_tokens": "uniform:1..9"}, "input_tokens differs"),
        ({"turns": 3}, "turns differs: nothing and 3"),
        ({"dataset": "sharegpt"}, "dataset differs: nothing and sharegpt"),
        ({"lengths": "pairs.csv"}, "lengths differs: nothing and pairs.csv"),
    ],
)
def test_another_workload_is_another_question(tmp_path, spec, words):
    usual = {"model": "m", "slo": None, "input_tokens": 64, "output_tokens": 128}
    one = loaded(tmp_path / "one", [], spec=usual)
    other = loaded(tmp_path / "other", [], spec=usual | spec)
    (why,) = compare.differences_of_workload(one.summary, other.summary)
    assert words in why
    assert compare.differences_of_workload(one.summary, one.summary) == []


def test_other_arrivals_and_other_stamps_are_another_question(tmp_path):
    one = loaded(tmp_path / "one", [], [open_plan()])
    other = loaded(tmp_path / "other", [], [open_plan(load_arrivals="poisson")], file={"stamp_source": "read"})
    why = compare.differences_of_workload(one.summary, other.summary)
    assert "arrivals differ: constant and poisson" in why[0]
    assert "stamps differ: kernel and read" in why[1]


def test_what_a_reader_has_to_know_is_told(tmp_path):
    one = loaded(tmp_path / "one", waiting_rows(1))
    slo = {"ttft": {"percentile": 99.0, "limit_ms": 500.0}, "tpot": {"percentile": None, "limit_ms": 5.5}}
    other = loaded(tmp_path / "other", [], spec={"model": "another", "slo": slo}, ended={"reason": "interrupted"})
    told = " / ".join(doubts([one, other]))
    assert "other is suspect" in told
    assert "other was interrupted" in told
    assert "model differs between one and other: m and another" in told
    assert "slo differs between one and other: nothing and ttft:p99=500ms,tpot=5.5ms" in told


def test_a_suspect_run_is_told_by_load_and_with_the_number_of_reasons_that_are_left_out(tmp_path):
    one = loaded(tmp_path / "one", waiting_rows(1))
    verdict = one.summary["verdict"]
    verdict["ok"] = False
    verdict["reasons"] = [
        {"stage": stage, "code": "c", "words": f"w{number}", "try": ""}
        for number, stage in enumerate([None, "concurrency 1", "concurrency 8", "concurrency 8", "rate 5/s"])
    ]
    assert doubts([one]) == [
        "one is suspect: w0; concurrency 1: w1; concurrency 8: w2; and 2 more reasons (loadgen report)"
    ]
    del verdict["reasons"][3:]
    assert doubts([one]) == ["one is suspect: w0; concurrency 1: w1; concurrency 8: w2"]


def test_other_limits_of_a_load_are_told(tmp_path):
    one = loaded(tmp_path / "one", [], [open_plan()])
    other = loaded(
        tmp_path / "other", [], [open_plan(load_max_in_flight=8)], spec={"slo": None, "seed": 5, "transport": "aiohttp"}
    )
    told = " / ".join(doubts([one, other]))
    assert "rate 100/s: max_in_flight differs between one and other: nothing and 8" in told
    assert "transport differs" in told
    assert "seed" not in told


def test_runs_in_folders_of_one_name_are_called_a_and_b(tmp_path):
    runs = load([write_run(tmp_path / letter / "run", []) for letter in "xy"])
    assert [run.name for run in runs] == ["A", "B"]


def test_blocks_hold_what_the_summary_counts(tmp_path):
    run_dir = write_run(tmp_path, waiting_rows(5, failed=0.1))
    (stage,) = load([run_dir])[0].summary["stages"]
    blocks = stage_blocks(opened(run_dir))[0]
    assert blocks.interval_s * INTERVALS == stage["window_s"]
    for name in ("ttft", "tpot", "itl", "e2e"):
        assert blocks.latencies[name].counts.sum() == stage[f"{name}_ms"]["count"]
        mean_ms = blocks.latencies[name].sums_ns.sum() / blocks.latencies[name].counts.sum() / 1e6
        assert mean_ms == pytest.approx(stage[f"{name}_ms"]["mean"], abs=1e-5)
    assert blocks.rates["output_tokens"].sum() / 10 == pytest.approx(stage["output_tokens_per_s"])
    assert blocks.rates["completed"].sum() / 10 == pytest.approx(stage["requests_per_s"])
    assert blocks.rates["sent"].sum() == stage["requests"]["sent"]
    assert blocks.rates["failed"].sum() == stage["requests"]["failed"]
