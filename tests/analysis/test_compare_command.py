import json
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from synthetic import MS, START_NS, row, stage_plan, write_run

from loadgen.cli.compare import command
from loadgen.errors import UsageError

SPEC = {"model": "m", "slo": None, "output_tokens": 8}


def run_of(folder, gap_ms=5.0, spec=SPEC, plans=None, **options):
    """Two slots for ten seconds; a response takes 50 ms and seven gaps."""
    rows = []
    for slot in range(2):
        for k in range(110):
            sent_ns = START_NS + slot * 7 * MS + k * 90 * MS
            wobble_ns = (k * 37 % 11) * 20_000
            events = [sent_ns + 50 * MS + wobble_ns + round(j * gap_ms * MS) for j in range(8)]
            rows.append(row(sent_ns, events, request_id=len(rows)))
    rows.sort(key=lambda one: one["ended_ns"])
    return write_run(folder, rows, plans or [stage_plan()], spec=spec, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [run_of(folder / "usual"), run_of(folder / "again"), run_of(folder / "slow", gap_ms=5.5)]


def invoked(*arguments):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_a_table_a_load_with_values_changes_and_statements(runs):
    result = invoked(*runs)
    assert result.exit_code == 0, result.exception
    text = result.output
    assert "concurrency 2: usual to again" in text
    assert "concurrency 2: usual to slow" in text
    (tpot,) = [line.split() for line in text.split("usual to slow")[1].splitlines() if line.startswith("tpot.p50")]
    assert tpot[:6] == ["tpot.p50", "ms", "5.00", "5.50", "+10.0%", "+9.90%"]
    assert tpot[-1] == "slower"
    again = text.split("usual to slow")[0]
    assert "slower" not in again
    assert "no evidence" in again
    assert max(map(len, text.splitlines())) <= 80


def test_a_condition_that_holds_is_status_4_and_a_failure_in_junit(runs, tmp_path):
    path = tmp_path / "junit.xml"
    result = invoked(runs[0], runs[2], "--fail-if", "tpot.p50 > +5%", "--fail-if", "errors > 1%", "--junit", path)
    assert result.exit_code == 4
    assert "failed   tpot.p50 > +5%" in result.output
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failure,) = suite.findall("testcase/failure")
    assert "+10.0%" in failure.get("message")
    assert invoked(runs[0], runs[1], "--fail-if", "tpot.p50 > +5%").exit_code == 0


def test_what_cannot_be_told_passes_and_fails_when_strict(runs):
    condition = ["--fail-if", "ttft_intended.p99 > +5%"]
    easy, strict = invoked(runs[0], runs[1], *condition), invoked(runs[0], runs[1], *condition, "--strict")
    assert (easy.exit_code, strict.exit_code) == (0, 4)
    assert "unknown" in easy.output


def test_strict_follows_the_verdicts(runs, tmp_path):
    suspect = run_of(tmp_path / "suspect", ended={"reason": "interrupted"})
    result = invoked(runs[0], suspect)
    assert result.exit_code == 0
    assert "warning: suspect is suspect" in result.output
    assert invoked(runs[0], suspect, "--strict").exit_code == 3


def test_other_workloads_are_refused_and_with_force_compared_and_told(runs, tmp_path):
    other = run_of(tmp_path / "other", spec=SPEC | {"output_tokens": 16})
    refusal = invoked(runs[0], other).exception
    assert isinstance(refusal, UsageError)
    assert "usual and other cannot be compared: output_tokens differs: 8 and 16. --force" in str(refusal)
    forced = invoked(runs[0], other, "--force")
    assert forced.exit_code == 0
    assert "warning: usual and other are of different workloads: output_tokens differs" in forced.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["usual"], "RUN: 1 given; it takes two or more"),
        (["usual", "nowhere"], "'nowhere' is no run"),
        (["usual", "again", "--fail-if", "ttft > 5"], "--fail-if: 'ttft > 5': a latency needs one of"),
        (["usual", "again", "--fail-if", "ttft.p99 > +5% @ 77"], "no stage of both runs has the load 77"),
        (["usual", "again", "--junit", "x.xml"], "--junit: there is nothing to write; give --fail-if"),
        (["usual", "elsewhere"], "have no load in common: concurrency 2; and concurrency 8"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(runs, monkeypatch, arguments, words):
    monkeypatch.chdir(runs[0].parent)
    if not (runs[0].parent / "elsewhere").exists():
        write_run(runs[0].parent / "elsewhere", [], [stage_plan(2)])
    refusal = invoked(*arguments).exception
    assert isinstance(refusal, UsageError)
    assert words in str(refusal)


def test_as_json_every_figure_has_its_interval_and_statement(runs):
    result = invoked(runs[0], runs[2], "--json", "--fail-if", "tpot.p50 > +5%")
    assert result.exit_code == 4
    told = json.loads(result.output)
    (one,) = told["comparisons"]
    figures = {figure["name"]: figure for figure in one["figures"]}
    tpot = figures["tpot.p50"]
    assert (tpot["statement"], tpot["method"]) == ("slower", "blocks")
    assert tpot["interval"]["low"] < 0.1 < tpot["interval"]["high"]
    assert {"errors", "output_tokens_per_s", "itl.p99.9"} <= set(figures)
    assert [condition["outcome"] for condition in told["conditions"]] == ["failed"]
    assert [run["run"] for run in told["runs"]] == [str(runs[0]), str(runs[2])]


def test_a_models_words_steer_no_terminal(runs, tmp_path):
    hostile = run_of(tmp_path / "hostile", spec=SPEC | {"model": "x\x1b[31m"})
    text = invoked(runs[0], hostile).output
    assert "\x1b" not in text
    assert "model differs" in text


def test_two_sweeps_share_a_picture(tmp_path):
    plans = [stage_plan(0), stage_plan(1)]
    runs = []
    for name, gap_ms in (("a", 5.0), ("b", 6.0)):
        folder = run_of(tmp_path / name, gap_ms)
        rows = [
            row(
                START_NS + 30_000 * MS + k * 40 * MS,
                [START_NS + 30_000 * MS + k * 40 * MS + j * 7 * MS for j in (9, 10, 11)],
                stage=1,
            )
            for k in range(200)
        ]
        first = [
            row(START_NS + k * 90 * MS, [START_NS + k * 90 * MS + (50 + j) * MS for j in range(8)]) for k in range(100)
        ]
        from synthetic import mark

        runs.append(write_run(folder, [*first, *rows], plans, [mark(0), mark(1, START_NS + 30_000 * MS)], spec=SPEC))
    text = invoked(*runs).output
    assert "● a" in text
    assert "○ b" in text
    assert "E2E p50, ms" in text
