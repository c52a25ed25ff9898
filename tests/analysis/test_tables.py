from sweep_run import sweep
from synthetic import MS, START_NS, S, mark, open_plan, stage_plan, steady_rows, write_run
from terminal import shown

from analysis import notes, tables
from analysis.summary import summarize


def test_the_table_has_a_row_a_stage_and_fits_80_columns(tmp_path):
    plans, marks = [stage_plan(0), stage_plan(1)], [mark(0), mark(1, START_NS + 20 * S)]
    rows = steady_rows() + steady_rows(4, start_ns=START_NS + 20 * S, stage=1)
    stages = summarize(write_run(tmp_path, rows, plans, marks))["stages"]
    for stage in stages:  # as wide as they come
        stage["name"] = "concurrency 16,384 [bold]x"
        stage["output_tokens_per_s"] = 1_234_567.0
        stage["requests_per_s"] = 12_345.0
        stage["requests"]["failed"] = 10_000
        for metric in ("ttft_ms", "tpot_ms", "itl_ms"):
            stage[metric] |= {"p50": 12_345.6, "p99": 123_456.7}
    text = shown(tables.stage_table(stages))
    assert max(map(len, text.splitlines())) <= 80
    for cell in ("1,234,567", "12,345", "10,000", "~123,457", "[bold]x"):
        assert text.count(cell) >= 2, cell
    assert "…" not in text


def test_embeddings_have_no_columns_of_tokens_that_they_have_not_and_fit_80_columns(tmp_path):
    (stage,) = summarize(write_run(tmp_path, steady_rows()))["stages"]
    assert shown(tables.stage_table([stage])).count("TPOT") == 2
    text = shown(tables.stage_table([stage | {"inputs_per_s": 64.0, "tpot_ms": None, "itl_ms": None}]))
    assert "TPOT" not in text
    assert "ITL" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("concurrency 2"))
    assert row.split()[-2:] == ["64.00", "0"], "inputs and errors in one row"


def scheduled_stages(tmp_path, stages: int = 2) -> list[dict]:
    """Open-loop stages of sessions of three turns."""
    plans = [open_plan(number, load_unit="session", load_max_in_flight=16) for number in range(stages)]
    marks = [mark(number, START_NS + number * 20 * S) for number in range(stages)]
    rows = []
    for number in range(stages):
        for turn in range(3):
            facts = {"stage": number, "turn": turn, "prompt_tokens": 500 * (turn + 1)}
            some = steady_rows(3, start_ns=START_NS + number * 20 * S, **facts)
            rows += [one | {"intended_ns": one["sent_ns"] - 2 * MS} for one in some]
    return summarize(write_run(tmp_path, rows, plans, marks))["stages"]


def test_open_loop_stages_have_both_latencies_and_what_became_of_their_arrivals_in_80_columns(tmp_path):
    stages = scheduled_stages(tmp_path)
    text = shown(tables.open_loop_table(stages))
    # The first three of each stage were due before the window.
    row = next(line for line in text.splitlines() if line.startswith("rate 100/s")).split()
    assert row == ["rate", "100/s", "711", "711", "711", "0", "2.00", "2.00", "52.00", "52.00", "127.0"]
    assert " 50.00 " in shown(tables.stage_table(stages))  # TTFT from the send
    for stage in stages:  # as wide as they come
        stage["name"] = "rate exp:1..1000@3600s"
        stage["requests"] |= {"offered": 3_600_000, "sent": 3_599_000, "late": 9_999_000, "dropped": 99_999}
        stage["client"]["lateness_us"] |= {"p50": 12_345_600, "p99": 99_999_400, "unreliable": ["p50", "p99"]}
        for metric in ("ttft_intended_ms", "e2e_intended_ms"):
            stage[metric] |= {"p50": 12_345.6, "p99": 9_999_499, "unreliable": ["p50", "p99"]}
    text = shown(tables.open_loop_table(stages))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for cell in ("3,600k", "3,599k", "9,999k", "99,999", "~12,346", "~9,999k", "@3600s"):
        assert text.count(cell) >= 2, cell


def test_turns_have_a_row_each_and_long_sessions_end_in_a_row_of_the_rest(tmp_path):
    stages = scheduled_stages(tmp_path)
    text = shown(tables.turn_table(stages))
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if line.split()[-1].startswith("~")]
    assert rows[0] == ["rate", "100/s", "0", "237", "500.0", "50.00", "~50.00", "52.00", "~52.00"]
    assert rows[1][:3] == ["1", "237", "1,000"]
    assert "p99 wants 662" in "\n".join(note.plain for note in notes.footnotes(stages))
    for stage in stages:
        stage["name"] = "concurrency 16,384"
        stage["by_turn"] = [
            one | {"turn": turn, "count": 1_000_000} for turn, one in enumerate([stage["by_turn"][0]] * 20)
        ]
        for one in stage["by_turn"]:
            one["ttft_ms"] = one["ttft_intended_ms"] = one["ttft_ms"] | {"p50": 12_345.6, "p99": 123_456.7}
    text = shown(tables.turn_table(stages))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("...") == 2
    assert text.count("8,000,000") == 2
    assert "…" not in text


def test_a_closed_loop_without_sessions_has_one_table(tmp_path):
    stages = summarize(write_run(tmp_path, steady_rows()))["stages"]
    assert tables.open_loop_table(stages) is None
    assert tables.turn_table(stages) is None


def test_nothing_is_explained_where_nothing_is_marked(tmp_path):
    stages = summarize(write_run(tmp_path, []))["stages"]
    assert notes.footnotes(stages) == []
    assert "-" in shown(tables.stage_table(stages))


def test_a_percentile_of_the_curve_is_marked_where_all_repeats_have_too_few_samples(tmp_path):
    summary = summarize(sweep(tmp_path, seconds=1.0, loads=(1, 8, 8)))
    (light, heavy) = (line for line in shown(tables.curve_table(summary)).splitlines() if line.split()[0] in "18")
    counts = [
        sum(stage["ttft_ms"]["count"] for stage in summary["stages"] if stage["load"]["value"] == n) for n in (1, 8)
    ]
    assert counts[0] < 11
    assert counts[1] < 662
    assert (light.count("~"), heavy.count("~")) == (5, 2)
    (said, *_) = (note.plain for note in notes.footnotes(summary["stages"], tables.doubted_of_curve(summary)))
    assert said == "~ too few samples to rely on: p50 wants 11, p99 wants 662"
    for stage in summary["stages"]:
        for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
            stage[name]["count"] = 331
    (light, heavy) = (line for line in shown(tables.curve_table(summary)).splitlines() if line.split()[0] in "18")
    assert (light.count("~"), heavy.count("~")) == (2, 0), "two repeats of 331 make 662"
