import pytest
from rich.console import Console
from synthetic import MS, START_NS, S, mark, open_plan, stage_plan, steady_rows, write_run

from analysis import tables
from analysis.summary import summarize


def test_lengths_that_are_not_as_wanted_are_told_and_others_are_not(tmp_path):
    wanted = {"wanted_input_tokens": 100, "prompt_tokens": 100, "wanted_output_tokens": 30, "output_tokens": 20}
    summary = summarize(
        write_run(tmp_path, [*steady_rows(**wanted), *steady_rows(1, **wanted | {"output_tokens": 30})])
    )
    (stage,) = summary["stages"]
    assert stage["lengths"]["input_tokens"]["exact_share"] == 1
    assert (stage["lengths"]["output_tokens"]["wanted_mean"], stage["lengths"]["output_tokens"]["requests"]) == (
        30,
        240,
    )
    notes = "\n".join(note.plain for note in tables.footnotes(summary["stages"]))
    assert "output tokens: 30.0 wanted on average, 23.3 by the server's count (33% exact)" in notes
    assert "input tokens" not in notes


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (0.1234, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234567.8, "1,234,568")],
)
def test_numbers_have_about_four_digits(value, shown):
    assert tables.number(value) == shown


def test_embeddings_have_no_length_of_their_output(tmp_path):
    wanted = {"wanted_input_tokens": 100, "prompt_tokens": 100, "wanted_output_tokens": 128, "output_tokens": 0}
    plan = stage_plan() | {"inputs_per_request": 4}
    (stage,) = summarize(write_run(tmp_path, steady_rows(**wanted), [plan]))["stages"]
    assert list(stage["lengths"]) == ["input_tokens"]
    assert not any("output tokens:" in note.plain for note in tables.footnotes([stage]))


def test_words_from_outside_cannot_steer_the_terminal():
    assert tables.plain("a\x1b[31mb\rc\x07\u202e\u2028d") == "a [31mb c   d"
    assert tables.plain("Qwen2.5-7B é 中") == "Qwen2.5-7B é 中"


def shown(renderable: object, width: int = 80) -> str:
    console = Console(width=width, file=None, record=True, force_terminal=False)
    with console.capture() as caught:
        console.print(renderable)
    return caught.get()


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
    assert "p99 wants 662" in "\n".join(note.plain for note in tables.footnotes(stages))
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


def test_who_left_and_who_was_refused_is_told_below_and_is_no_error(tmp_path):
    left = steady_rows(1, seconds=0.3, error="cancelled")
    stages = summarize(write_run(tmp_path, [*steady_rows(retries=1), *left]))["stages"]
    notes = "\n".join(note.plain for note in tables.footnotes(stages))
    assert "concurrency 2: 3 requests cancelled by their users: no failure, and in no latency" in notes
    assert "concurrency 2: 160 requests refused at first (429, 503) and tried again" in notes
    assert "failed" not in notes


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.5, "0.500"), (99_999.4, "99,999"), (99_999.6, "100k"), (9_999_499, "9,999k"), (12_345_678, "12M")],
)
def test_a_narrow_column_holds_any_number(value, shown):
    assert tables.short(value) == shown
    assert len(shown) <= 6


def test_marks_errors_and_objectives_are_explained(tmp_path):
    rows = [
        *steady_rows(),
        *steady_rows(1, seconds=0.3, error="http-429"),
        *steady_rows(1, seconds=0.1, error="truncated"),
    ]
    spec = {"slo": {"ttft": {"percentile": 90, "limit_ms": 60.0}, "tpot": {"percentile": None, "limit_ms": 5.0}}}
    stages = summarize(write_run(tmp_path, rows, spec=spec))["stages"]
    notes = "\n".join(note.plain for note in tables.footnotes(stages))
    assert "p99 wants 662" in notes
    assert "concurrency 2: 4 of 164 requests failed: 3 http-429, 1 truncated" in notes
    assert "goodput 15.80 req/s; fluidity 100.0%; TTFT p90 <= 60 ms by 100.0%, met; TPOT <= 5 ms by 100.0%" in notes


def test_nothing_is_explained_where_nothing_is_marked(tmp_path):
    stages = summarize(write_run(tmp_path, []))["stages"]
    assert tables.footnotes(stages) == []
    assert "-" in shown(tables.stage_table(stages))


def test_each_reason_comes_with_what_to_try():
    reasons = [{"stage": "concurrency 2", "code": "cpu", "words": "worker 0 was busy", "try": "more --workers"}]
    lines = [line.plain for line in tables.verdict_lines({"verdict": {"ok": False, "reasons": reasons}})]
    assert lines == ["suspect: 1 reason", "  concurrency 2: worker 0 was busy", "    try: more --workers"]
    assert [line.plain for line in tables.verdict_lines({"verdict": {"ok": True, "reasons": []}})] == ["valid"]


def test_a_search_that_ended_where_the_user_allowed_no_more_blames_nobody():
    told = {
        "question": "slo",
        "load": {"mode": "concurrency", "value": 64, "low": 64, "high": 64},
        "output_tokens_per_s": {"value": 5826.0, "low": 5441.7, "high": 6210.3},
        "limited_by": "bounds",
        "reasons": ["the highest load that --most allows (64) meets the objectives"],
    }
    lines = [line.plain for line in tables.answer_lines(told)]
    assert lines[0] == "limited by --most, not by the endpoint, at 64.00 requests in flight"
    assert lines[1] == "the endpoint gave 5,826 output tokens/s there, and may give more"


def test_the_same_doubt_of_several_repeats_is_told_once():
    reason = {"stage": "concurrency 1", "code": "too-few-samples", "words": "9 requests", "try": "--duration 4s"}
    lines = tables.verdict_lines({"verdict": {"ok": False, "reasons": [reason, reason, reason | {"stage": None}]}})
    assert [line.plain for line in lines] == [
        "suspect: 3 reasons",
        "  concurrency 1: 9 requests (2 times)",
        "    try: --duration 4s",
        "  9 requests",
        "    try: --duration 4s",
    ]


def test_a_profile_has_no_unit_behind_its_time():
    assert tables.load_words({"mode": "rate", "value": 12.5}) == "12.5/s"
    assert tables.load_words({"mode": "rate", "profile": "sine:5..50@20s"}) == "sine:5..50@20s"
