import pytest
from analysis_speed import draw, measure

from analysis.summary import summarize


@pytest.mark.parametrize("told", [False, True])
def test_a_drawn_capture_has_the_tokens_that_the_row_says_and_the_percentiles_that_it_is_held_against(tmp_path, told):
    tokens, exact_ms = draw(tmp_path / "run", 40_000, told)
    row = measure(tmp_path / "run", tokens, exact_ms, jobs=1)
    assert row["tokens"] == tokens >= 40_000
    assert row["percentile_error"] <= 0.001
    assert row["million_tokens_per_s"] > 0
    assert row["peak_rss_mb"] > 50
    (stage,) = summarize(tmp_path / "run")["stages"]
    assert stage["itl_ms"]["count"] == tokens - tokens // 128
    assert stage["requests"]["completed"] == tokens // 128
    assert (stage["slo"] is not None) == told
    assert ("itl_per_token_ms" in stage) == told
