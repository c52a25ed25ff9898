"""The circuit breaker, asked as the coordinator asks it: with what the board says, several times a second."""

from types import SimpleNamespace
from typing import Any

from loadgen.job.breaker import LEAST_ENDED, breaker, first_of


def stage(mode: str = "rate", duration_s: float | None = 100.0) -> dict[str, Any]:
    return {"load": {"mode": mode}, "duration_s": duration_s, "ramp_up_s": 1.0, "warmup_s": 2.0}


def now(elapsed_s: float, completed: int, failed: int) -> Any:
    return SimpleNamespace(elapsed_s=elapsed_s, completed=completed, failed=failed)


def said(judge: Any, *moments: tuple[float, int, int]) -> str:
    """The first thing it says."""
    return next((words for moment in moments if (words := judge(now(*moment)))), "")


def test_it_speaks_when_more_than_the_share_failed_within_the_window():
    judge = breaker(stage(), "error-rate>50%/10s")
    assert said(judge, (0.0, 0, 0), (5.0, 40, 60), (9.9, 80, 119)) == ""  # not a whole window yet
    words = said(judge, (10.0, 80, 120))
    assert "120 of the 200 requests that ended in the last 10 s failed (60%)" in words
    assert "--abort-on error-rate>50%/10s" in words


def test_what_failed_before_the_window_is_forgotten():
    judge = breaker(stage(), "error-rate>50%/10s")
    assert said(judge, (0.0, 0, 0), (4.0, 0, 40), (9.0, 60, 40), (14.0, 160, 40), (20.0, 260, 40)) == ""


def test_exactly_the_share_is_still_allowed():
    assert said(breaker(stage(), "error-rate>50%/10s"), (0.0, 0, 0), (10.0, 50, 50)) == ""


def test_a_few_requests_say_nothing():
    judge = breaker(stage(), "error-rate>50%/10s")
    assert said(judge, (0.0, 0, 0), (10.0, 0, LEAST_ENDED - 1)) == ""
    assert said(judge, (10.1, 0, LEAST_ENDED)) != ""


def test_it_keeps_quiet_once_nothing_is_sent_any_more():
    judge = breaker(stage(duration_s=10.0), "error-rate>50%/10s")
    assert said(judge, (0.0, 0, 0), (13.1, 0, 500)) == ""


def test_an_open_loop_has_one_by_itself_and_a_closed_loop_has_none():
    assert said(breaker(stage(), "auto"), (0.0, 0, 0), (30.0, 10, 90)) != ""
    assert breaker(stage("concurrency"), "auto") is None
    assert breaker(stage(), "never") is None


def test_the_first_of_several_conditions_speaks():
    judge = breaker(stage(), "error-rate>10%/50s,error-rate>80%/5s")
    assert "error-rate>80%/5s" in said(judge, (0.0, 0, 0), (5.0, 5, 95))


def test_of_several_judges_each_is_asked_every_time():
    asked: list[str] = []

    def judge(name: str, words: str) -> Any:
        return lambda _: asked.append(name) or words

    one = first_of([None, judge("a", ""), judge("b", "b speaks"), judge("c", "c speaks")])
    assert one(now(0, 0, 0)) == "b speaks"
    assert asked == ["a", "b", "c"]
    assert first_of([None]) is None
