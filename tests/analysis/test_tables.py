import pytest
from rich.console import Console
from synthetic import START_NS, S, mark, stage_plan, steady_rows, write_run

from analysis import tables
from analysis.summary import summarize


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (0.1234, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234567.8, "1,234,568")],
)
def test_numbers_have_about_four_digits(value, shown):
    assert tables.number(value) == shown


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
