import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from asked import PATIENCE_S
from click.testing import CliRunner
from rich.console import Console
from synthetic import START_NS, S, frozen_server, mark, open_plan, stage_plan, steady_rows, write_run

from analysis.spelling import number
from analysis.summary import summarize
from loadgen.cli import pictures, results
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


def test_only_files_that_are_there_are_named(run_dir):
    summary = summarize(run_dir)
    assert f"{run_dir}: capture/" in shown(summary, run_dir, width=400)
    (run_dir / "summary.json").write_text("{}")
    assert f"{run_dir}: summary.json, capture/" in shown(summary, run_dir, width=400)


def test_a_run_without_a_stage_is_shown_as_suspect(tmp_path):
    text = shown(summarize(write_run(tmp_path, [], marks=[])), tmp_path)
    assert "suspect" in text
    assert "try: " in text


def test_report_writes_the_summary_anew_and_json_is_the_file(run_dir):
    result = CliRunner().invoke(command, [str(run_dir), "--json", "--no-html"])
    assert result.exit_code == 0
    assert result.stdout == (run_dir / "summary.json").read_text()
    assert json.loads(result.stdout)["schema"] == 1
    assert (run_dir / "histograms.hlog").exists()


def test_strict_makes_the_exit_status_follow_the_verdict(run_dir, tmp_path):
    assert CliRunner().invoke(command, [str(run_dir), "--strict", "--no-html"]).exit_code == 0
    suspect = write_run(tmp_path / "suspect", steady_rows(coalesced_events=9))
    assert CliRunner().invoke(command, [str(suspect), "--strict", "--no-html"]).exit_code == 3
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
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.decode("ascii")
    assert done.stderr == b""


def test_a_page_is_written_beside_the_summary_unless_it_is_not_wanted(run_dir):
    result = CliRunner().invoke(command, [str(run_dir), "--no-html"])
    assert result.exit_code == 0
    assert not (run_dir / "report.html").exists()
    result = CliRunner().invoke(command, [str(run_dir)])
    assert "report.html" in result.stdout
    assert (run_dir / "report.html").read_text().startswith("<!doctype html>")
    assert not list(run_dir.glob("*.part"))


def test_several_runs_are_shown_one_after_the_other_and_in_one_page(run_dir, tmp_path):
    other, page = write_run(tmp_path / "other", steady_rows()), tmp_path / "both.html"
    result = CliRunner().invoke(command, [str(run_dir), str(other), "--html", str(page), "--strict"])
    assert result.exit_code == 0
    assert result.stdout.count("\nvalid\n") == 2
    assert f"{run_dir.name}: evil [31m [red]model" in page.read_text()
    assert "other: m" in page.read_text()
    assert result.stdout.endswith(f"page: {page}\n")
    assert not (other / "report.html").exists()


def test_figures_are_written_as_png_and_svg(tmp_path):
    run_dir = write_run(tmp_path / "run", steady_rows())
    result = CliRunner().invoke(
        command, [str(run_dir), "--png", str(tmp_path / "png"), "--svg", str(tmp_path / "svg"), "--no-html"]
    )
    assert result.exit_code == 0
    assert result.stdout.endswith(f"figures: {tmp_path / 'png'}\nfigures: {tmp_path / 'svg'}\n")
    png, svg = ({path.stem: path.read_bytes() for path in (tmp_path / kind).iterdir()} for kind in ("png", "svg"))
    assert set(png) == set(svg)
    assert {"throughput-latency-p99", "percentiles-ttft", "histogram-itl", "timeline", "requests-0"} <= set(png)
    assert all(data.startswith(b"\x89PNG") for data in png.values())
    assert all(data.startswith(b"<svg") for data in svg.values())


def test_a_reason_that_is_folded_stays_below_itself(tmp_path):
    run_dir, out = write_run(tmp_path / "run", steady_rows(1, seconds=0.2)), io.StringIO()
    results.show(summarize(run_dir), run_dir, Console(file=out, width=30))
    _, _, below = out.getvalue().partition("\nsuspect: ")
    head, *lines = below.partition("\n\n")[0].splitlines()
    assert len(lines) > 3
    assert all(line.startswith("  ") and line == line.rstrip() and len(line) <= 30 for line in lines)
    assert sum(line.startswith("    try: ") for line in lines) == int(head.split()[0])


def test_open_shows_the_page_in_the_users_browser(run_dir, tmp_path):
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    asked = [sys.executable, "-m", "loadgen", "report", str(run_dir), "--open"]
    place = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    subprocess.run(asked, env=place | {"BROWSER": f"{browser} %s"}, capture_output=True, timeout=PATIENCE_S, check=True)
    assert seen.read_text().strip() == (run_dir / "report.html").as_uri()
    done = subprocess.run(
        asked, env=place | {"BROWSER": "/nowhere", "PATH": ""}, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert b"there is no browser here" in done.stderr


def test_without_the_extra_results_are_shown_and_pictures_that_are_asked_for_are_refused(
    run_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(pictures, "NEEDED", ("a_package_that_is_not_there",))
    result = CliRunner().invoke(command, [str(run_dir)])
    assert result.exit_code == 0
    assert "pip install 'loadgen[plots]'" in " ".join(result.stdout.split())
    assert not (run_dir / "report.html").exists()
    for flag in (["--html", str(tmp_path / "x.html")], ["--png", str(tmp_path)], ["--svg", str(tmp_path)], ["--open"]):
        error = CliRunner().invoke(command, [str(run_dir), *flag]).exception
        assert isinstance(error, UsageError)
        assert (
            str(error) == f"{flag[0]}: pip install 'loadgen[plots]' brings what draws pictures, and it is not installed"
        )


def test_what_cannot_be_shown_together_is_refused(run_dir, tmp_path):
    other = write_run(tmp_path / "other", steady_rows())
    (tmp_path / "file").touch()
    for arguments, words in (
        ([run_dir, run_dir], "RUN: one run is given twice"),
        ([run_dir, other, "--json"], "--json: 2 runs are given"),
        ([run_dir, other, "--open"], "--open: several runs need --html FILE"),
        ([run_dir, "--no-html", "--html", tmp_path / "x"], "--no-html: --html asks for a page"),
        ([run_dir, "--html", tmp_path / "nowhere" / "x.html"], "--html: "),
        ([run_dir, "--no-html", "--png", tmp_path / "file"], "--png: "),
    ):
        error = CliRunner().invoke(command, list(map(str, arguments))).exception
        assert isinstance(error, UsageError), arguments
        assert str(error).startswith(words)
        assert "\n" not in str(error)


def test_a_page_that_cannot_be_written_costs_no_number(run_dir):
    (run_dir / "report.html").mkdir()
    result = CliRunner().invoke(command, [str(run_dir)])
    assert result.exit_code == 0
    assert "concurrency 2" in result.stdout
    assert result.stderr == "loadgen: report.html could not be written: Is a directory\n"
    assert not list(run_dir.glob("*.part"))
