import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from analysis.bootstrap import Interval
from analysis.compare import STATISTICS, Change
from analysis.gates import DOUBTFUL, FAILED, METRICS, PASSED, UNKNOWN, fails, judge, junit, parse_gate, percent
from loadgen.cli.compare import GATE_STATUS, SUSPECT_STATUS

STAGE = {"name": "concurrency 64", "load": {"mode": "concurrency", "value": 64}}


def change(metric="ttft", statistic="p99", before=100.0, after=110.0, spread=0.02, reliable=True, within=(None, None)):
    share = (after - before) / before if metric != "errors" else after - before
    interval = None if spread is None else Interval(share, share - spread, share + spread)
    return Change(metric, statistic, before, after, share, interval, "blocks", reliable, "slower", within)


@pytest.mark.parametrize(
    ("words", "limit", "is_change"),
    [
        ("ttft.p99 > +5%", 0.05, True),
        ("ttft.p99>+5%", 0.05, True),
        ("  itl.p99.9  >  +20ms ", 20.0, True),
        ("itl.p99_9 > 1.5s", 1500.0, False),
        ("e2e.mean < -3%", -0.03, True),
        ("errors > 1%", 0.01, False),
        ("errors > +0.5%", 0.005, True),
        ("output_tokens_per_s < -5%", -0.05, True),
        ("requests_per_s < 40", 40.0, False),
        ("goodput_per_s < -2.5", -2.5, True),
        ("tpot.p50 > 500us @ 64", 0.5, False),
        ("tpot.p50 > +1% @ 0..64@30s", 0.01, True),
    ],
)
def test_a_condition_is_read(words, limit, is_change):
    gate = parse_gate(words)
    assert gate.limit == pytest.approx(limit)
    assert gate.is_change == is_change


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "is no condition; write for example 'ttft.p99 > +5%'"),
        ("ttft.p99", "is no condition"),
        ("ttft.p99 >= 5%", "is no condition"),
        ("latency.p99 > +5%", "'latency' is unknown; allowed are ttft, "),
        ("ttft > +5%", "needs one of mean, p50, p90, p95, p99, p99.9, as in ttft.p99"),
        ("ttft.p42 > +5%", "needs one of mean"),
        ("ttft.p99 > 5%", "a value of ttft is given in us or ms or s, as in 'ttft.p99 > 500ms'"),
        ("ttft.p99 > +5", "a change of ttft is given in % or us or ms or s"),
        ("errors.p99 > 1%", "errors is one number and has no p99"),
        ("errors > 3", "given in %"),
        ("requests_per_s < 40ms", "a value of requests_per_s is given in a plain number"),
    ],
)
def test_a_bad_condition_is_refused_with_what_is_allowed(words, complaint):
    with pytest.raises(ValueError, match=r"condition|unknown|needs|given|has no") as refusal:
        parse_gate(words)
    assert complaint in str(refusal.value)
    assert repr(words) in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "found", "outcome"),
    [
        ("ttft.p99 > +5%", change(after=110.0), FAILED),
        ("ttft.p99 > +5%", change(after=104.0), PASSED),
        ("ttft.p99 > +5%", change(after=90.0), PASSED),
        ("ttft.p99 > +5%", change(after=110.0, spread=0.2), DOUBTFUL),
        ("ttft.p99 > +5%", change(after=110.0, spread=None), DOUBTFUL),
        ("ttft.p99 > +5%", change(after=110.0, reliable=False), DOUBTFUL),
        ("ttft.p99 > +5ms", change(after=110.0), FAILED),
        ("ttft.p99 > +15ms", change(after=110.0), PASSED),
        ("ttft.p99 > 105ms", change(after=110.0, spread=None), FAILED),
        ("ttft.p99 > 105ms", change(after=110.0, reliable=False), DOUBTFUL),
        ("ttft.p99 > 105ms", change(after=110.0, reliable=False, within=(104.0, None)), DOUBTFUL),
        ("ttft.p99 > 105ms", change(after=110.0, reliable=False, within=(106.0, None)), FAILED),
        ("ttft.p99 < 115ms", change(after=110.0, reliable=False, within=(90.0, None)), DOUBTFUL),
        ("ttft.p50 < 115ms", change(statistic="p50", after=110.0, reliable=False, within=(None, 114.0)), FAILED),
        ("ttft.p99 > 115ms", change(after=110.0), PASSED),
        ("ttft.p99 > -10%", change(after=95.0, spread=0.5), FAILED),  # a tenth better was demanded
        ("ttft.p99 > -10%", change(after=85.0), PASSED),
        ("ttft.p50 > +5%", change(), UNKNOWN),
        ("output_tokens_per_s < -5%", change("output_tokens_per_s", None, after=90.0), FAILED),
        ("output_tokens_per_s < -5%", change("output_tokens_per_s", None, after=90.0, spread=0.3), DOUBTFUL),
        ("output_tokens_per_s < 95", change("output_tokens_per_s", None, after=90.0), FAILED),
        ("errors > 1%", change("errors", None, 0.0, 0.02, 0.001), FAILED),
        ("errors > +1%", change("errors", None, 0.02, 0.025, 0.001), PASSED),
        ("errors > +1%", change("errors", None, 0.02, 0.045, 0.001), FAILED),
    ],
)
def test_a_condition_holds_when_there_is_evidence(words, found, outcome):
    assert judge(parse_gate(words), "A to B", STAGE, [found]).outcome == outcome


def test_a_condition_of_another_load_does_not_ask_about_this_one():
    assert judge(parse_gate("ttft.p99 > +5% @ 8"), "A to B", STAGE, [change()]) is None
    assert judge(parse_gate("ttft.p99 > +5% @ 64"), "A to B", STAGE, [change()]).outcome == FAILED


def test_junit_tells_failures_and_what_could_not_be_told_apart():
    judged = [
        judge(parse_gate("ttft.p99 > +5%"), "A to \x1b<B>", STAGE, [change(after=110.0)]),
        judge(parse_gate("ttft.p99 > +5%"), "A to B", STAGE, [change(after=110.0, spread=0.5)]),
        judge(parse_gate("ttft.p99 > +5%"), "A to B", STAGE, [change(after=100.0)]),
    ]
    suite = ElementTree.fromstring(junit(judged, strict=False)).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = suite.findall("testcase")
    assert cases[0].get("classname") == "A to  <B>"
    assert "110 ms" in cases[0].find("failure").get("message")
    assert cases[1].find("skipped") is not None
    assert cases[2].find("failure") is None
    strict = ElementTree.fromstring(junit(judged, strict=True)).find("testsuite")
    assert (strict.get("failures"), strict.get("skipped")) == ("2", "0")
    assert [fails(one, strict=False) for one in judged] == [True, False, False]


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "0%"), (0.00001, "0%"), (0.0123, "+1.23%"), (-0.25, "-25.0%"), (3.5, "+350%")]
)
def test_a_share_in_per_cent_has_three_digits(share, words):
    assert percent(share) == words


def test_the_page_on_comparisons_names_every_metric_statistic_and_status():
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    metrics, statistics = (line for line in page.splitlines() if line.startswith(("| METRIC", "| STATISTIC")))
    assert re.findall(r"`(\w+)`", metrics) == list(METRICS)
    assert [name.replace(".", "_") for name in re.findall(r"`([\w.]+)`", statistics)] == list(STATISTICS)
    assert f"| {GATE_STATUS} | a condition failed |" in page
    assert f"| {SUSPECT_STATUS} | with `--strict`" in page
