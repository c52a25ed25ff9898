from synthetic import stage_plan, steady_rows, write_run

from analysis import notes
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
    said = "\n".join(note.plain for note in notes.footnotes(summary["stages"]))
    assert "output tokens: 30.0 wanted on average, 23.3 by the server's count (33% exact)" in said
    assert "input tokens" not in said


def test_embeddings_have_no_length_of_their_output(tmp_path):
    wanted = {"wanted_input_tokens": 100, "prompt_tokens": 100, "wanted_output_tokens": 128, "output_tokens": 0}
    plan = stage_plan() | {"inputs_per_request": 4}
    (stage,) = summarize(write_run(tmp_path, steady_rows(**wanted), [plan]))["stages"]
    assert list(stage["lengths"]) == ["input_tokens"]
    assert not any("output tokens:" in note.plain for note in notes.footnotes([stage]))


def test_who_left_and_who_was_refused_is_told_below_and_is_no_error(tmp_path):
    left = steady_rows(1, seconds=0.3, error="cancelled")
    stages = summarize(write_run(tmp_path, [*steady_rows(retries=1), *left]))["stages"]
    said = "\n".join(note.plain for note in notes.footnotes(stages))
    assert "concurrency 2: 3 requests cancelled by their users: no failure, and in no latency" in said
    assert "concurrency 2: 160 requests refused at first (429, 503) and tried again" in said
    assert "failed" not in said


def test_marks_errors_and_objectives_are_explained(tmp_path):
    rows = [
        *steady_rows(),
        *steady_rows(1, seconds=0.3, error="http-429"),
        *steady_rows(1, seconds=0.1, error="truncated"),
    ]
    spec = {"slo": {"ttft": {"percentile": 90, "limit_ms": 60.0}, "tpot": {"percentile": None, "limit_ms": 5.0}}}
    stages = summarize(write_run(tmp_path, rows, spec=spec))["stages"]
    said = "\n".join(note.plain for note in notes.footnotes(stages))
    assert "p99 wants 662" in said
    assert "concurrency 2: 4 of 164 requests failed: 3 http-429, 1 truncated" in said
    assert "goodput 15.80 req/s; fluidity 100.0%; TTFT p90 <= 60 ms by 100.0%, met; TPOT <= 5 ms by 100.0%" in said


def test_each_reason_comes_with_what_to_try():
    reasons = [{"stage": "concurrency 2", "code": "cpu", "words": "worker 0 was busy", "try": "more --workers"}]
    lines = [line.plain for line in notes.verdict_lines({"verdict": {"ok": False, "reasons": reasons}})]
    assert lines == ["suspect: 1 reason", "  concurrency 2: worker 0 was busy", "    try: more --workers"]
    assert [line.plain for line in notes.verdict_lines({"verdict": {"ok": True, "reasons": []}})] == ["valid"]


def test_a_search_that_ended_where_the_user_allowed_no_more_blames_nobody():
    told = {
        "question": "slo",
        "load": {"mode": "concurrency", "value": 64, "low": 64, "high": 64},
        "output_tokens_per_s": {"value": 5826.0, "low": 5441.7, "high": 6210.3},
        "limited_by": "bounds",
        "reasons": ["the highest load that --most allows (64) meets the objectives"],
        "points": [{"client": [], "saturated": False, "meets": True}],
    }
    lines = [line.plain for line in notes.answer_lines(told)]
    assert lines[0] == "limited by --most, not by the endpoint, at 64 requests in flight"
    assert lines[1] == "the endpoint gave 5,826 output tokens/s there, and may give more"


def test_a_load_is_told_as_it_was_asked_for_and_an_open_point_is_explained():
    told = {
        "question": "slo",
        "load": {"mode": "concurrency", "value": 48, "low": 48, "high": None},
        "output_tokens_per_s": {"value": 2936.0, "low": 2823.0, "high": 3049.0},
        "limited_by": "server",
        "reasons": [],
        "points": [{"client": [], "saturated": False, "meets": meets} for meets in (True, None)],
    }
    lines = [line.plain for line in notes.answer_lines(told)]
    assert lines == [
        "the highest load within the objectives: 48 requests in flight (48 .. ?), 2,936 output tokens/s (2,823 .. 3,049)",
        "open: too few requests to be sure whether it meets the objectives",
    ]
    told["load"] = {"mode": "rate", "value": 12.345, "low": 12.0, "high": 12.5}
    told["points"] = told["points"][:1]
    lines = [line.plain for line in notes.answer_lines(told)]
    assert len(lines) == 1
    assert "12.35 requests a second (12 .. 12.50)" in lines[0] or "12.34 requests a second (12 .. 12.50)" in lines[0]


def test_the_same_doubt_of_several_repeats_is_told_once():
    reason = {"stage": "concurrency 1", "code": "too-few-samples", "words": "9 requests", "try": "--duration 4s"}
    lines = notes.verdict_lines({"verdict": {"ok": False, "reasons": [reason, reason, reason | {"stage": None}]}})
    assert [line.plain for line in lines] == [
        "suspect: 2 reasons",
        "  concurrency 1: 9 requests (2 times)",
        "    try: --duration 4s",
        "  9 requests",
        "    try: --duration 4s",
    ]
