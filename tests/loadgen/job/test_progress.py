import io
import re
from dataclasses import replace

import pytest
from asked import spec
from rich.console import Console
from watched import START

from loadgen import planner
from loadgen.board import BUCKETS, bucket_of
from loadgen.job import progress
from loadgen.job.progress import Progress

BUSY = replace(
    START,
    elapsed_s=4.0,
    in_flight=64,
    sent=164,
    completed=97,
    failed=3,
    events=9_700,
    reads=10_000,
    decoded_reads=9_800,
    ttft_p50_ns=123_400_000,
    tpot_p50_ns=20_100_000,
    lag_ns=35_000,
    cpu_ns=(1_000_000_000, 1_200_000_000),
)


def planned(**changes):
    """The two stages of a run, as in run.json."""
    asked = spec(concurrency=(1, 64), **changes)
    return planner.stages(asked, planner.schedules(asked))


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def shown(*looks, asked=None, terminal=False, clock=None, apart_s=0.5, width=200) -> str:
    """What was written to the console by these looks, this far apart; where it is no terminal, a line for each."""
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        Progress(asked or planned(), Console(file=out, force_terminal=terminal, width=width)) as watch,
    ):
        patch.setattr(progress, "PLAIN_EVERY_S", 0.0)
        for look in looks:
            watch(look)
            if clock is not None:
                clock.now_s += apart_s
    return out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "asked", [planned(), planned(requests=None, duration_s=30.0, warmup_s=3.0)], ids=["requests", "duration"]
)
def test_nothing_is_divided_by_zero_at_the_start(asked, terminal, clock):
    now = replace(START, sent=1)
    everything = shown(now, now, replace(now, elapsed_s=0.0), asked=asked, terminal=terminal)
    if terminal:
        assert "in flight" in everything
    for look in (now, BUSY, replace(START, failed=5, sent=5)):
        shown(look, look, asked=asked, terminal=terminal, clock=clock)


def counts(*values_ms):
    """The board's histogram of these."""
    found = [0] * BUCKETS
    for value_ms in values_ms:
        found[bucket_of(round(value_ms * 1e6))] += 1
    return tuple(found)


def last_view(said):
    """The lines of the last drawing, without control sequences."""
    drawn = re.split(r"(?:\x1b\[1A\x1b\[2K)+", said)
    plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", one) for one in drawn]
    return [one for one in plain if "stage" in one][-1].splitlines()


def test_a_terminal_shows_numbers_with_their_course_and_takes_them_away(clock):
    before = replace(BUSY, reads=0, ttft_counts=counts())
    now = replace(BUSY, ttft_counts=counts(*[123.4] * 90, *[400.0] * 10))
    said = shown(before, now, terminal=True, clock=clock, width=80)
    lines = last_view(said)
    assert lines[0].startswith("stage 1/2 concurrency 1  elapsed 4 s")
    for line, words in zip(
        lines[1:6],
        ("tokens/s 19,796", "TTFT p50 ~130 ms", "TTFT p99 ~410 ms", "in flight 64", "lag 0.035 ms"),
        strict=True,
    ):
        assert " ".join(line.split()).startswith(words)
        assert "█" in line
    assert lines[6].startswith("done 97  failed 3  TPOT ~20 ms")
    assert max(map(len, lines)) < 80
    assert "\x1b[2K" in said.rpartition("done")[2], "the last view is erased"


def test_percentiles_are_those_of_the_last_seconds(clock):
    slow = replace(BUSY, ttft_counts=counts(*[900.0] * 50))
    quick = replace(BUSY, ttft_counts=counts(*[900.0] * 50, *[20.0] * 50))
    view = last_view(shown(slow, *[slow] * 10, quick, terminal=True, clock=clock, width=100))
    assert view[2].split()[2] == "~19", "the middle of a bucket is 19.5"
    assert "900" not in view[3]


def test_a_course_goes_on_over_the_stages_and_what_is_not_known_is_blank(clock):
    first = replace(BUSY, in_flight=8, ttft_counts=counts())
    view = last_view(shown(*[first] * 4, *[replace(first, stage=1, in_flight=16)] * 4, terminal=True, clock=clock))
    assert re.search("▅▅▅▅████", view[4])
    assert view[2].split()[2] == "-"


def test_a_low_terminal_shows_two_lines(clock):
    out = io.StringIO()
    with Progress(planned(), Console(file=out, force_terminal=True, width=80, height=6)) as watch:
        watch(BUSY)
    lines = last_view(out.getvalue())
    assert lines[0].startswith("stage 1/2")
    assert "in flight 64  done 97" in lines[1]


def test_a_dumb_terminal_gets_plain_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    (line,) = plain_lines(BUSY, BUSY, clock=clock, force_terminal=True, width=200)
    assert "\x1b[" not in line
    assert line.startswith("stage 1/2 concurrency 1")


def test_a_terminal_without_blocks_gets_letters(clock):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(planned(), Console(file=out, force_terminal=True, width=80)) as watch:
        watch(BUSY)
    out.flush()
    assert b"@" in out.buffer.getvalue()


def test_a_stages_name_cannot_steer_the_terminal(clock):
    asked = planned()
    asked[0]["name"] = "\x1b[2Jname"
    assert "\x1b[2Jname" not in shown(BUSY, asked=asked, terminal=True, clock=clock)
    assert "\x1b" not in shown(BUSY, asked=asked, clock=clock)


def plain_lines(*looks, clock=None, **changes):
    """What a console that is no terminal was told by these looks at stages that then ended, a line each."""
    out = io.StringIO()
    with Progress(planned(), Console(file=out, **changes)) as watch:
        for look, then in zip(looks, (*looks[1:], None), strict=True):
            watch(look)
            if clock is not None:
                clock.now_s += 0.5
            if then is None or then.stage != look.stage:
                watch.stage_ended()
    return out.getvalue().splitlines()


def test_without_a_terminal_a_stage_has_a_line_when_it_has_ended(clock):
    lines = plain_lines(BUSY, replace(BUSY, elapsed_s=4.25), replace(BUSY, stage=1), clock=clock, width=200)
    assert lines == [
        "stage 1/2 concurrency 1  elapsed 4.2 s  done 97  failed 3  TTFT ~120 ms  TPOT ~20 ms  lag 0.035 ms",
        "stage 2/2 concurrency 64  elapsed 4.0 s  done 97  failed 3  TTFT ~120 ms  TPOT ~20 ms  lag 0.035 ms",
    ]


def test_a_stage_that_has_ended_is_told_once_where_the_run_ends_before_the_next(clock):
    out = io.StringIO()
    with Progress(planned(), Console(file=out, width=200)) as watch:
        watch(BUSY)
        watch.stage_ended()
        watch.stage_ended()
    assert len(out.getvalue().splitlines()) == 1


def test_and_a_long_one_has_a_line_a_minute_meanwhile(clock):
    first, second, last = plain_lines(
        *[replace(BUSY, elapsed_s=second / 2) for second in range(251)], clock=clock, width=200
    )
    assert first.startswith("stage 1/2 concurrency 1  elapsed 60 s")
    assert second.startswith("stage 1/2 concurrency 1  elapsed 120 s")
    assert "in flight 64" in second
    assert last.startswith("stage 1/2 concurrency 1  elapsed 125.0 s")


def test_a_plain_line_is_one_line_however_narrow_the_console(clock):
    assert len(plain_lines(BUSY, clock=clock, width=40)) == 1


def test_a_search_does_not_know_how_many_stages_there_will_be(clock):
    out = io.StringIO()
    with Progress(planned(), Console(file=out, width=200), all_planned=False) as watch:
        watch(replace(BUSY, stage=1))
        watch.stage_ended()
    assert out.getvalue().startswith("stage 2 concurrency 64  elapsed ")


def test_a_terminal_is_told_no_stage_twice(clock):
    out = io.StringIO()
    with Progress(planned(), Console(file=out, force_terminal=True, width=100)) as watch:
        watch(BUSY)
        shown_before = out.getvalue()
        watch.stage_ended()
        assert out.getvalue() == shown_before


def test_the_phase_is_told():
    asked = planned(requests=None, duration_s=30.0, warmup_s=3.0)
    for now, words in (
        (replace(BUSY, elapsed_s=1.0), "1 s warm-up "),
        (replace(BUSY, elapsed_s=10.0), "10 s "),
        (replace(BUSY, elapsed_s=35.0), "35 s drain "),
        (replace(BUSY, elapsed_s=10.0, draining=True), "10 s drain "),
    ):
        assert f"elapsed {words}" in shown(now, asked=asked)


def test_an_open_loop_shows_what_was_offered_and_how_late():
    asked = spec(rate=(5.0,), duration_s=30.0)
    stages = planner.stages(asked, planner.schedules(asked)) * 2
    said = shown(replace(BUSY, offered=170, dropped=6, cancelled=2, lateness_ns=45_000), asked=stages)
    for words in ("rate 5/s", "offered 170", "dropped 6", "cancelled 2", "late 0.045 ms"):
        assert words in said
    assert "dropped" not in shown(BUSY, asked=stages)
    assert "offered" not in shown(BUSY)


def test_a_ramp_is_a_phase_too():
    asked = planned(requests=None, duration_s=30.0, warmup_s=3.0, ramp_up_s=4.0)
    assert "4 s warm-up" in shown(BUSY, asked=asked)
    assert "2 s ramp-up" in shown(replace(BUSY, elapsed_s=2.0), asked=asked)
    assert "left 70 s" in shown(BUSY, asked=asked)


def test_what_is_left_counts_the_stages_to_come():
    by_time = planned(requests=None, duration_s=30.0, warmup_s=3.0)
    assert "left 62 s" in shown(replace(BUSY, elapsed_s=4.0), asked=by_time)
    assert "left 29 s" in shown(replace(BUSY, elapsed_s=4.0, stage=1), asked=by_time)
    assert "left 33 s" in shown(replace(BUSY, elapsed_s=40.0), asked=by_time)
    by_number = planned(requests=300)
    assert "left 20 s" in shown(replace(BUSY, elapsed_s=4.0), asked=by_number)
    assert "left 8 s" in shown(replace(BUSY, elapsed_s=4.0, stage=1), asked=by_number)
    assert "left -" in shown(replace(START, sent=1, elapsed_s=1.0), asked=by_number)


def test_a_word_that_stays_is_printed_as_it_is():
    out = io.StringIO()
    Progress(planned(), Console(file=out, width=20)).say("[bold]Interrupted[/]: a sentence longer than the console")
    assert out.getvalue() == "[bold]Interrupted[/]: a sentence longer than the console\n"
