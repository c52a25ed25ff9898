"""What must not get worse: `ttft.p99 > +5%` and its like, judged on a comparison, and told as JUnit XML.

    METRIC[.STATISTIC] > LIMIT [@ LOAD]        or <

METRIC is a latency (ttft, ttft_intended, tpot, itl, e2e, e2e_intended; STATISTIC is then mean, p50, p90, p95, p99 or p99.9),
a rate (output_tokens_per_s, requests_per_s, goodput_per_s) or errors, the share of requests that failed. A LIMIT with a sign
is a change from the first run (`> +5%`, `< -3%`, `> +20ms`); one without is a value of the later run (`> 500ms`, `< 40`,
`> 1%` of errors). `@ 64` asks of the stages with this load alone.

A change for the worse fails only when there is evidence of one: beyond the limit, but with an interval that holds zero, it
is *doubtful*. A limit on the other side of zero (`> -10%`) demands a change for the better, and nothing less passes.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.compare import ERRORS, LATENCIES, RATES, STATISTICS, Change

METRICS: Final = (*LATENCIES, *RATES, ERRORS)

MS_PER: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}

_GATE: Final = re.compile(
    r"\s*(?P<metric>[a-z0-9_]+)(?:\.(?P<statistic>mean|p[0-9]+(?:[._][0-9]+)?))?\s*(?P<sign>[<>])\s*"
    r"(?P<limit>[+-]?[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>%|us|ms|s)?\s*(?:@\s*(?P<load>\S+)\s*)?"
)

PASSED: Final = "passed"
FAILED: Final = "failed"
DOUBTFUL: Final = "doubtful"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition under which a release is to be stopped. `limit` is a share for %, ms for a time, else a number."""

    words: str
    metric: str
    statistic: str | None
    above: bool
    limit: float
    is_change: bool
    is_relative: bool
    load: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate on one matched stage of one comparison; `why` says what was found."""

    gate: Gate
    runs: str
    stage: str
    outcome: str
    why: str


def parse_gate(words: str) -> Gate:
    """ValueError that names what is wrong and what is allowed."""
    found = _GATE.fullmatch(words)
    if found is None:
        raise ValueError(f"{words!r} is no condition; write for example 'ttft.p99 > +5%' or 'errors > 1%'")
    metric, statistic, unit = found["metric"], found["statistic"], found["unit"]
    if metric not in METRICS:
        raise ValueError(f"{words!r}: {metric!r} is unknown; allowed are {', '.join(METRICS)}")
    if metric in LATENCIES:
        statistic = (statistic or "").replace(".", "_")
        if statistic not in STATISTICS:
            allowed = ", ".join(name.replace("_", ".") for name in STATISTICS)
            raise ValueError(f"{words!r}: a latency needs one of {allowed}, as in {metric}.p99")
    elif statistic is not None:
        raise ValueError(f"{words!r}: {metric} is one number and has no {statistic}")
    is_change = found["limit"][0] in "+-"
    _check_unit(words, metric, unit, is_change)
    factor = 0.01 if unit == "%" else MS_PER[unit] if unit else 1.0
    return Gate(
        words.strip(),
        metric,
        statistic,
        found["sign"] == ">",
        float(found["limit"]) * factor,
        is_change,
        is_change and unit == "%" and metric != ERRORS,
        found["load"],
    )


def _check_unit(words: str, metric: str, unit: str | None, is_change: bool) -> None:
    if metric in LATENCIES:
        allowed = ("%", *MS_PER) if is_change else tuple(MS_PER)
    elif metric == ERRORS:
        allowed = ("%",)
    else:
        allowed = ("%", None) if is_change else (None,)  # type: ignore[assignment]
    if unit not in allowed:
        told = " or ".join("a plain number" if one is None else one for one in allowed)
        kind = "a change" if is_change else "a value"
        raise ValueError(f"{words!r}: {kind} of {metric} is given in {told}, as in {_example(metric, is_change)}")


def _example(metric: str, is_change: bool) -> str:
    if metric in LATENCIES:
        return f"'{metric}.p99 > {'+5%' if is_change else '500ms'}'"
    if metric == ERRORS:
        return f"'errors > {'+1%' if is_change else '1%'}'"
    return f"'{metric} < {'-5%' if is_change else '1000'}'"


def judge(gate: Gate, runs: str, stage: dict[str, Any], changes: Sequence[Change]) -> Judged | None:
    """The gate on one matched stage (`stage` has its name and load); None where it does not ask about this load."""
    if gate.load is not None and gate.load != load_word(stage["load"].get("value")):
        return None
    one = next((c for c in changes if c.metric == gate.metric and c.statistic == gate.statistic), None)

    def told(outcome: str, why: str) -> Judged:
        return Judged(gate, runs, str(stage["name"]), outcome, why)

    if one is None or one.before is None or one.after is None:
        return told(UNKNOWN, "one of the runs has no such value")
    if not gate.is_change:
        passes = one.after > gate.limit if gate.above else one.after < gate.limit
        low, high = one.after_within
        # What a percentile of few is, is not known, but it may be known to be beyond the limit all the same.
        seen = (low is not None and low > gate.limit) if gate.above else (high is not None and high < gate.limit)
        return told(_of(passes, one.reliable or seen), f"{value(one.metric, one.after)}")
    change = one.change if gate.is_relative or gate.metric == ERRORS else one.after - one.before
    if change is None:
        return told(UNKNOWN, "it was zero in the first run")
    passes = change > gate.limit if gate.above else change < gate.limit
    demands = gate.limit < 0 if gate.above else gate.limit > 0
    seen = one.interval is not None and (one.interval.low > 0 if gate.above else one.interval.high < 0)
    return told(_of(passes, one.reliable and (demands or seen)), change_words(one))


def _of(passes_limit: bool, evident: bool) -> str:
    return PASSED if not passes_limit else FAILED if evident else DOUBTFUL


def load_word(load: object) -> str:
    """A load as it is written after @."""
    return f"{load:g}" if isinstance(load, int | float) else str(load)


def value(metric: str, number: float) -> str:
    """A figure with its unit."""
    if metric in LATENCIES:
        return f"{number:,.4g} ms" if number < 1000 else f"{number:,.0f} ms"
    return f"{number:.2%}" if metric == ERRORS else f"{number:,.4g}" if number < 1000 else f"{number:,.0f}"


def change_words(one: Change) -> str:
    """A change in words: values, change, interval, statement."""
    words = f"{value(one.metric, one.before or 0.0)} to {value(one.metric, one.after or 0.0)}"
    if one.change is not None:
        words += f", {percent(one.change)}"
    if one.interval is not None:
        words += f" ({percent(one.interval.low)} .. {percent(one.interval.high)})"
    return f"{words}: {one.statement}"


def percent(share: float) -> str:
    """A signed share in per cent, three digits of it."""
    size = abs(share * 100)
    if size < 0.005:
        return "0%"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{share * 100:+.{digits}f}%" if math.isfinite(share) else "-"


def junit(judged: Sequence[Judged], strict: bool) -> str:
    """JUnit XML, a test case a gate and stage; doubtful and unknown ones are skipped, or failures when strict."""
    suite = ElementTree.Element("testsuite", name="loadgen compare", tests=str(len(judged)))
    failures = skipped = 0
    for one in judged:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(one.runs), name=_xml(f"{one.gate.words} [{one.stage}]")
        )
        if fails(one, strict):
            failures += 1
            ElementTree.SubElement(case, "failure", message=_xml(one.why), type=one.outcome)
        elif one.outcome != PASSED:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=_xml(f"{one.outcome}: {one.why}"))
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(one.why)
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    suite.set("errors", "0")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _xml(words: str) -> str:
    return "".join(char if char.isprintable() else " " for char in words)


def fails(one: Judged, strict: bool) -> bool:
    """Whether this stops a release; when strict, what could not be told does so as well."""
    return one.outcome == FAILED or (strict and one.outcome != PASSED)
