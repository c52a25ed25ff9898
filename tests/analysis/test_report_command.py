import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console
from synthetic import START_NS, S, frozen_server, mark, open_plan, stage_plan, steady_rows, write_run

from analysis.summary import summarize
from analysis.tables import number
from loadgen.cli import results
from loadgen.cli.report import command
from loadgen.errors import UsageError


@pytest.fixture
def run_dir(tmp_path):
    plans, marks = [stage_plan(0), stage_plan(1)], [mark(0), mark(1, START_NS + 20 * S)]
    rows = steady_rows() + steady_rows(4, start_ns=START_NS + 20 * S, stage=1)
    spec = {"model": "evil\x1b[31m [red]model", "url": "http://h:1", "slo": None}
    return write_run(tmp_path, rows, plans, marks, spec=spec)


def shown(summary, run_dir, **options) -> str:
    out = io.StringIO()
    results.show(summary, run_dir, Console(file=out, **({"width": 80} | options)))
    return out.getvalue()


def test_results_are_plain_text_of_80_columns_when_not_on_a_terminal(run_dir):
    text = shown(summarize(run_dir), run_dir)
    assert max(len(line) for line in text.splitlines() if str(run_dir) not in line) <= 80
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "[red]model" in text
    assert "E2E p50, ms" in text
    assert "\nvalid\n" in text
    assert text.rstrip().endswith("summary.json, histograms.hlog, capture/") or "capture/" in text


def test_results_have_colour_on_a_terminal_and_never_the_models_own(run_dir):
    text = shown(summarize(run_dir), run_dir, force_terminal=True, color_system="standard")
    assert "\x1b[1;32mvalid" in text
    assert "\x1b[31m [red]" not in text


def test_a_frozen_server_shows_in_the_table_from_the_intended_time_beside_the_send(tmp_path):
    run_dir = write_run(tmp_path, frozen_server(), [open_plan(seconds=30.0)], [mark(seconds=30)])
    told = summarize(run_dir)
    text = shown(told, run_dir)
    first, second = (line for line in text.splitlines() if line.startswith("rate 100/s   "))
    (stage,) = told["stages"]
    assert number(stage["ttft_ms"]["p99"]) in first.split()
    assert number(stage["ttft_intended_ms"]["p99"]) in second.split()
    assert stage["ttft_intended_ms"]["p99"] > 1_000 > 10 * stage["ttft_ms"]["p99"]
    assert "latencies from the intended time" in text
    assert max(len(line) for line in text.splitlines() if str(run_dir) not in line) <= 80


def test_one_stage_has_a_table_and_no_picture(tmp_path):
    text = shown(summarize(write_run(tmp_path, steady_rows())), tmp_path)
    assert "E2E p50, ms" not in text
    assert "concurrency 2" in text


def test_a_run_without_a_stage_is_shown_as_suspect(tmp_path):
    text = shown(summarize(write_run(tmp_path, [], marks=[])), tmp_path)
    assert "suspect" in text
    assert "try: " in text


def test_report_writes_the_summary_anew_and_json_is_the_file(run_dir):
    result = CliRunner().invoke(command, [str(run_dir), "--json"])
    assert result.exit_code == 0
    assert result.stdout == (run_dir / "summary.json").read_text()
    assert json.loads(result.stdout)["schema"] == 1
    assert (run_dir / "histograms.hlog").exists()


def test_strict_makes_the_exit_status_follow_the_verdict(run_dir, tmp_path):
    assert CliRunner().invoke(command, [str(run_dir), "--strict"]).exit_code == 0
    suspect = write_run(tmp_path / "suspect", steady_rows(coalesced_events=9))
    assert CliRunner().invoke(command, [str(suspect), "--strict"]).exit_code == 3
    assert CliRunner().invoke(command, [str(suspect)]).exit_code == 0


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path):
    empty = tmp_path / "empty"
    (empty / "capture").mkdir(parents=True)
    for path in (tmp_path / "none", tmp_path, empty):
        result = CliRunner().invoke(command, [str(path)])
        assert isinstance(result.exception, UsageError)
        assert result.exception.exit_status == 2
        assert len(str(result.exception).splitlines()) == 1
        assert str(path) in str(result.exception)


def test_the_installed_command_prints_ascii_where_the_terminal_knows_no_more(run_dir):
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "report", str(run_dir)],
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode("ascii")
    assert done.stderr == b""
