import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.durations import MOST_NS
from loadgen.schedule.arrivals import MOST_ARRIVALS, MOST_BURST, Process, offsets_ns, parse_process, read_trace
from loadgen.schedule.profile import parse_profile

MS = 1_000_000
S = 1_000_000_000
KS_1_PERCENT = 1.628

often = settings(deadline=None)
seldom = settings(max_examples=40, deadline=None)

PROFILES = ("100", "0..300@4s+50@2s", "exp:2000..20@3s", "sine:0..200@5s", "40@1s+0@1s")
MADE = ("constant", "poisson", "gamma:0.5", "gamma:3")


def whole(text, duration_s=60, **before):
    return parse_profile(text).whole(before.get("ramp_up_ns", 0), 0, duration_s * S)


def due(process, rate="100", *, seed=1, stage=0, **until):
    profile = parse_profile(rate) if isinstance(rate, str) else rate
    return offsets_ns(parse_process(process), profile, seed=seed, stage=stage, **until)


def ks(values) -> float:
    """Kolmogorov-Smirnov against uniform values in 0..1, scaled so that KS_1_PERCENT is the limit for any n (Stephens)."""
    n = values.size
    values, rank = np.sort(values), np.arange(n)
    distance = max(((rank + 1) / n - values).max(), (values - rank / n).max())
    return distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))


def ks_exponential(gaps) -> float:
    """Of gaps whose mean should be 1."""
    return ks(-np.expm1(-gaps))


# What is typed.


@pytest.mark.parametrize(
    ("text", "process"),
    [
        ("constant", Process("constant")),
        (" poisson ", Process("poisson")),
        ("gamma:2", Process("gamma", cv=2.0)),
        ("gamma:.5", Process("gamma", cv=0.5)),
        ("gamma:100", Process("gamma", cv=100.0)),
        ("burst:10@1s", Process("burst", burst_size=10, period_ns=S)),
        ("burst:1000000@7ns", Process("burst", burst_size=MOST_BURST, period_ns=7)),
        ("trace:a trace.txt", Process("trace", file="a trace.txt")),
        ("trace:C:/trace@1.txt", Process("trace", file="C:/trace@1.txt")),
    ],
)
def test_a_process_is_a_name_and_what_it_needs(text, process):
    assert parse_process(text) == process
    assert parse_process(process.text) == process


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no process of arrivals; allowed is constant, poisson, gamma:CV"),
        ("Poisson", "is no process of arrivals"),
        ("poisson:3", "is no process of arrivals"),
        ("gamma", "is no process of arrivals"),
        ("gamma:0", "above 0 and up to 100"),
        ("gamma:-1", "above 0 and up to 100"),
        ("gamma:100.5", "above 0 and up to 100"),
        ("gamma:nan", "above 0 and up to 100"),
        ("gamma:1_0", "above 0 and up to 100"),
        ("burst:10", "allowed is burst:N@PERIOD"),
        ("burst:-1@1s", "allowed is burst:N@PERIOD"),
        ("burst:1.5@1s", "allowed is burst:N@PERIOD"),
        ("burst:0@1s", "allowed are 1 to 1000000"),
        ("burst:1000001@1s", "allowed are 1 to 1000000"),
        ("burst:10@0s", "must be above 0"),
        ("burst:10@1", "is no duration"),
        ("trace:", "names no file"),
        ("trace:a\0b", "names no file"),
        ("x" * 1_000_000, "is no process of arrivals"),
    ],
)
def test_a_refusal_names_what_was_wrong(text, words):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_process(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@often
@given(st.one_of(st.text(), st.from_regex(r"(gamma|burst|trace|constant|poisson):?[0-9.e@ms-]{0,9}", fullmatch=True)))
def test_anything_typed_is_a_process_or_a_value_error(text):
    try:
        process = parse_process(text)
    except ValueError:
        return
    assert parse_process(process.text) == process


@often
@given(st.floats(0, 100, exclude_min=True), st.integers(1, MOST_BURST), st.integers(1, MOST_NS))
def test_what_is_shown_is_the_same_process_when_typed(cv, size, period_ns):
    for process in (Process("gamma", cv=cv), Process("burst", burst_size=size, period_ns=period_ns)):
        assert parse_process(process.text) == process


# When they are due.


def test_constant_arrivals_never_drift():
    third = due("constant", "3", count=3_000_001)
    assert third[:4].tolist() == [0, 333_333_333, 666_666_667, S]
    assert third[3_000_000] == 1_000_000 * S
    assert due("constant", "700000", count=700_001)[700_000] == S
    assert due("constant", "0.1", until_ns=31 * S).tolist() == [0, 10 * S, 20 * S, 30 * S]


@pytest.mark.parametrize("rate", ["3", "7", "0.3", "1000", "999.9", "48000"])
def test_what_is_due_at_the_end_is_not_due_before_it(rate):
    per_s = float(rate)
    for seconds in (1, 7, 10, 30):
        arrivals = due("constant", rate, until_ns=seconds * S)
        assert arrivals.size == math.ceil(round(per_s * seconds, 6))
        assert arrivals[-1] < seconds * S
        assert due("constant", rate, until_ns=int(arrivals[-1])).size == arrivals.size - 1
        assert due("constant", rate, until_ns=int(arrivals[-1]) + 1).size == arrivals.size


def test_constant_arrivals_are_as_many_as_the_rate_says_at_any_time():
    for text in PROFILES:
        profile = whole(text, ramp_up_ns=3 * S)
        arrivals = due("constant", profile, until_ns=63 * S)
        assert arrivals.dtype == np.int64
        # Arrival k is the first ns (half a ns to either side) at which k arrivals' worth of load has passed.
        by_then = profile.integral(arrivals)
        assert by_then == pytest.approx(np.arange(arrivals.size), abs=1e-5)
        assert profile.integral(np.array([63 * S]))[0] - arrivals.size <= 1e-9


def test_a_pause_begins_after_the_last_arrival_and_ends_with_the_next():
    assert due("constant", "2@1s+0@3s+2@1s", count=99).tolist() == [0, S // 2, 4 * S, 9 * S // 2]
    assert due("constant", "0@1s+2@1s", count=99).tolist() == [S, 3 * S // 2]


@pytest.mark.parametrize("process", MADE)
def test_nobody_comes_in_a_pause_or_after_the_end(process):
    arrivals = due(process, whole("400@1s+0@1s", 20), until_ns=100 * S)
    assert ((arrivals // S) % 2 == 0).all()
    assert 19 * S > arrivals[-1] > 18 * S - S
    assert arrivals.size == pytest.approx(4000, rel=0.2)


def test_an_arrival_process_that_has_ended_gives_fewer_than_were_asked_for():
    assert due("poisson", "100@2s", count=100_000).size == pytest.approx(200, abs=60)
    assert due("poisson", "5", count=0).size == 0
    assert due("poisson", "5", until_ns=0).size == 0
    assert due("burst:5@1s", until_ns=0).size == 0


def test_the_end_is_a_time_or_a_number():
    for given_ in ({}, {"until_ns": S, "count": 3}):
        with pytest.raises(TypeError, match=r"one of until_ns and count"):
            due("poisson", **given_)


@seldom
@given(
    st.sampled_from([*MADE, "burst:7@30ms"]),
    st.sampled_from(PROFILES),
    st.integers(0, 40_000),
    st.integers(0, 40_000),
    st.integers(0, 61 * S),
)
def test_a_shorter_schedule_is_the_beginning_of_a_longer_one(process, rate, count, more, until_ns):
    profile = whole(rate, 60)
    longer = due(process, profile, count=count + more)
    assert longer[:count].tolist() == due(process, profile, count=count).tolist()
    assert (np.diff(longer) >= 0).all()
    until = due(process, profile, until_ns=until_ns)
    shared = min(longer.size, until.size)
    assert longer[:shared].tolist() == until[:shared].tolist()
    assert until.size == shared or longer.size == count + more
    assert longer.size == shared or longer[shared] >= until_ns


@pytest.mark.parametrize("process", [*MADE, "burst:3@1s"])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_dealt_out_and_put_together_again_it_is_the_process_of_one(process, workers):
    profile = whole("sine:50..200@7s")
    one = due(process, profile, until_ns=60 * S)
    dealt = [due(process, profile, until_ns=60 * S)[worker::workers] for worker in range(workers)]
    assert np.sort(np.concatenate(dealt)).tolist() == one.tolist()


def test_a_seed_means_the_same_in_every_version():
    assert due("poisson", seed=7, count=4).tolist() == [22_557_337, 24_257_280, 24_540_201, 34_660_315]
    assert due("gamma:2", seed=7, count=4).tolist() == [25_171_340, 27_683_871, 28_706_301, 78_730_847]


@pytest.mark.parametrize("process", ["poisson", "gamma:0.5", "gamma:3"])
def test_stages_and_seeds_know_nothing_of_each_other(process):
    n = 10_000
    # A seed of two words and a stage must not meet the seed and the stage that they look like.
    keys = [(1, 0), (1, 1), (2, 0), (2, 1), (1 << 32, 1), (0, 1), ((1 << 63) - 1, 0)]
    made = [np.argsort(np.argsort(np.diff(due(process, seed=seed, stage=stage, count=n + 1)))) for seed, stage in keys]
    for k, one in enumerate(made):
        for other in made[:k]:
            # The correlation of the ranks, in standard errors; 21 pairs.
            assert abs(np.corrcoef(one, other)[0, 1]) * math.sqrt(n) < 3.7


@pytest.mark.parametrize("seed", range(3))
def test_arrivals_closer_than_a_nanosecond_keep_their_order(seed):
    # A day's slow wave and a process of clusters: here the inverse is found by steps, and ends them 0.1 ns apart.
    arrivals = due("gamma:5", "sine:1..1000@10h", seed=seed, count=50_000)
    assert (np.diff(arrivals) == 0).any()
    assert (np.diff(arrivals) >= 0).all()


# How they are distributed.


def test_poisson_gaps_are_exponential():
    passed = [ks_exponential(np.diff(due("poisson", seed=seed, count=3001)) / 1e7) < KS_1_PERCENT for seed in range(10)]
    assert sum(passed) >= 9


@pytest.mark.parametrize("process", ["constant", "gamma:0.8", "gamma:1.25"])
def test_gaps_of_other_processes_are_not(process):
    assert ks_exponential(np.diff(due(process, count=3001)) / 1e7) > KS_1_PERCENT


@pytest.mark.parametrize("rate", ["1..200@30s", "200..1@30s", "exp:1..500@30s", "sine:0..200@10s", "50@3s+150@2s+0@1s"])
def test_poisson_stays_poisson_under_any_profile(rate):
    profile = whole(rate, 30)
    passed = []
    for seed in range(10):
        arrivals = due("poisson", profile, seed=seed, until_ns=30 * S)
        # Time rescaling: measured in expected arrivals, the gaps are exponential with mean 1 again.
        gaps = np.diff(profile.integral(arrivals))
        assert gaps.size > 1000
        passed.append(ks_exponential(gaps) < KS_1_PERCENT)
    assert sum(passed) >= 9


def test_poisson_gaps_know_nothing_of_the_gap_before():
    gaps = np.diff(due("poisson", count=20_001))
    for lag in (1, 2, 3, 16_384):
        n = gaps.size - lag
        assert abs(np.corrcoef(gaps[lag:], gaps[:-lag])[0, 1]) * math.sqrt(n) < 3.3


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma:0.3", "gamma:2"])
def test_the_rate_is_the_one_asked_for(process):
    arrivals = due(process, "1000", until_ns=200 * S)
    cv = 2 if process == "gamma:2" else 1
    assert abs(arrivals.size - 200_000) < 4 * cv * math.sqrt(200_000)


@pytest.mark.parametrize("cv", [0.05, 0.5, 1, 2, 5])
def test_the_gaps_of_a_gamma_process_have_its_variation(cv):
    gaps = np.diff(due(f"gamma:{cv}", "100", count=300_001)) / 1e7
    assert gaps.mean() == pytest.approx(1, abs=4 * cv / math.sqrt(gaps.size))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_gamma_of_one_is_poisson():
    assert ks_exponential(np.diff(due("gamma:1", count=3001)) / 1e7) < KS_1_PERCENT


def test_gamma_of_nearly_nothing_is_constant():
    gaps = np.diff(due("gamma:1e-300", "1000", count=1000))
    assert np.abs(gaps - MS).max() <= 1


def test_a_bursty_process_offers_its_rate_from_the_first_second_on():
    # Begun at an arrival, as in the middle of a cluster, gamma:8 would offer 31 in the first second besides the 100.
    counts = [due("gamma:8", seed=seed, until_ns=S).size for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=12)


def test_bursts_come_together_and_on_time():
    assert due("burst:3@2s", until_ns=4 * S).tolist() == [0, 0, 0, 2 * S, 2 * S, 2 * S]
    assert due("burst:3@2s", until_ns=4 * S + 1).size == 9
    assert due("burst:3@2s", count=5).tolist() == [0, 0, 0, 2 * S, 2 * S]
    assert offsets_ns(parse_process("burst:2@1s"), None, seed=0, stage=0, count=4).tolist() == [0, 0, S, S]


# What there is too much of.


@pytest.mark.parametrize(
    ("process", "rate", "until"),
    [
        ("poisson", "1e9", {"until_ns": 5 * S}),
        ("constant", "100", {"until_ns": MOST_NS * 2}),
        ("poisson", "100", {"count": MOST_ARRIVALS + 1}),
        ("burst:1000000@1ms", "1", {"until_ns": 5 * S}),
        ("burst:1000000@1ms", "1", {"count": MOST_ARRIVALS + 1}),
    ],
)
def test_an_absurd_number_of_arrivals_is_refused_before_it_is_made(process, rate, until):
    with pytest.raises(ValueError, match=r"arrivals are too many; allowed are 4294967296 in a stage"):
        due(process, rate, **until)


def test_arrivals_that_nobody_will_live_to_see_are_refused():
    with pytest.raises(ValueError, match=r"the arrivals go on after 30000h"):
        due("constant", "1e-9", count=10)
    with pytest.raises(ValueError, match=r"longer than 30000h for 4 arrivals"):
        due("burst:1@10000h", count=4)


@pytest.mark.parametrize("process", MADE)
def test_a_million_arrivals_stay_below_100_mb(process):
    profile = whole("exp:10000..20000@10s", 100)
    due(process, profile, count=10)  # numpy's own modules are nobody's arrivals
    tracemalloc.start()
    try:
        arrivals = due(process, profile, count=1_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert arrivals.size == 1_000_000
    assert arrivals.nbytes <= peak_bytes < 100_000_000


# Traces.


@pytest.fixture
def trace(tmp_path):
    def write(content):
        path = tmp_path / "trace.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def trace_refusal(path):
    with pytest.raises(ValueError, match=r".") as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_trace_is_a_number_a_line(trace):
    path = trace(
        "arrival_s\n# recorded on a Monday\n0\n\n  0.5  # the first user\r\n.75\n1e0\n1.000000001\n1.000000001\n2.\n"
    )
    assert read_trace(path).tolist() == [0, S // 2, 3 * S // 4, S, S + 1, S + 1, 2 * S]


def test_the_last_line_of_a_trace_needs_no_end(trace):
    assert read_trace(trace("1\n2")).tolist() == [S, 2 * S]


def test_a_byte_order_mark_does_not_eat_the_first_arrival(trace):
    assert read_trace(trace(b"\xef\xbb\xbf1\n2\n")).tolist() == [S, 2 * S]


def test_a_trace_is_read_to_the_nanosecond_however_late_it_is(trace):
    assert read_trace(trace("31536000.123456789\n")).tolist() == [31_536_000_123_456_789]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no arrivals"),
        ("at_s\n# nothing\n", "holds no arrivals"),
        ("1\n2\nthree\n", "line 3 ('three') is no number"),
        ("# a comment\nat_s\n1\n", "line 2 ('at_s') is no number"),
        ("at_s\ntokens\n1\n", "line 2 ('tokens') is no number"),
        ("1\n2,5\n", "line 2 ('2,5') is no number"),
        ("1\nnan\n", "line 2 ('nan') is no number"),
        ("1\ninf\n", "line 2 ('inf') is no number"),
        ("1\n1_0\n", "line 2 ('1_0') is no number"),
        ("-1\n", "line 1 (-1) is before the start"),
        ("0\n5\n4.999\n", "line 3 (4.999) is earlier than the one before it; sort the file by time"),
        ("1\n1e400\n", "line 2 ('1e400') is beyond 10000h"),
        ("1\n1e999\n", "line 2 ('1e999') is beyond 10000h"),
        ("1\n36000000.1\n", "line 2 ('36000000.1') is beyond 10000h"),
        ("1\n" + "9" * 4000 + "\n", "is beyond 10000h"),
        ("1\n" + "9" * 100_000, "line 2 is longer than the 4096 characters allowed"),
        ("1\n" * 70_000 + "x\n", "line 70001 ('x') is no number"),
        (b"1\n\xff\xfe\x00\n", "line 2 ("),
    ],
)
def test_a_line_that_cannot_be_used_is_named(trace, content, words):
    assert words in trace_refusal(trace(content))


def test_a_trace_that_cannot_be_read_says_so(tmp_path):
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(OSError, match=rf"^'{path}' cannot be read \({words}"):
            read_trace(path)


def test_the_arrivals_of_a_trace_are_the_recorded_ones(trace):
    process = Process("trace", file=str(trace("0\n0.5\n0.5\n2\n")))
    for until, expected in (
        ({"count": 3}, [0, S // 2, S // 2]),
        ({"count": 99}, [0, S // 2, S // 2, 2 * S]),
        ({"until_ns": S // 2}, [0]),
        ({"until_ns": 2 * S}, [0, S // 2, S // 2]),
        ({"until_ns": 2 * S + 1}, [0, S // 2, S // 2, 2 * S]),
    ):
        assert offsets_ns(process, None, seed=1, stage=0, **until).tolist() == expected


@seldom
@given(st.lists(st.integers(0, MOST_NS)).map(sorted))
def test_any_trace_is_read_as_it_was_written(tmp_path_factory, offsets):
    path = tmp_path_factory.getbasetemp() / "any-trace.txt"
    path.write_text("at_s\n" + "".join(f"{t // S}.{t % S:09}\n" for t in offsets))
    if offsets:
        assert read_trace(path).tolist() == offsets
    else:
        assert "holds no arrivals" in trace_refusal(path)
