"""Safety for others: load on another machine is stated and asked about, and broken off when it does harm.

Nothing here is sent to another machine: 192.0.2.1 is an address that nobody has (RFC 5737), and each run is refused first.
"""

import contextlib
import io
import json
import os
import pty
import select
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked import PATIENCE_S, environment, installed, spec, typed
from canned import GOOD, canned, response
from rich.console import Console

from loadgen import __version__
from loadgen.cli.consent import agreement, of_search, of_stages
from loadgen.cli.expectation import Prices
from loadgen.dialects.credentials import NOBODY
from loadgen.errors import UsageError
from loadgen.local_run import Run
from loadgen.simulator.process import serve

ELSEWHERE = "http://192.0.2.1:9"
LOAD = ("--input-tokens", 100, "--output-tokens", 50, "--workers", 1)


UNPRICED = Prices(None, None)


def stated(run: Run, *, prices: Prices = UNPRICED, state: Any = of_stages) -> str:
    """What is said before a load is made that --yes allows."""
    out = io.StringIO()
    agreement(Console(file=out, width=200), prices, yes=True, state=state)(run)
    return out.getvalue()


def elsewhere(run_dir: Path, **changes: Any) -> Run:
    """A run on a host that is not this machine."""
    return Run(spec(url=ELSEWHERE, workers=1, **changes), run_dir, credentials=[NOBODY])


@pytest.mark.parametrize("command", ["run", "sweep", "saturate"])
def test_load_on_another_machine_is_refused_where_nobody_can_be_asked(command, tmp_path):
    ended = typed(command, "--url", ELSEWHERE, "--out", tmp_path / "run", *LOAD)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("loadgen: --yes: 192.0.2.1 is not this machine, and there is no terminal")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_refusal_says_how_large_the_load_is(tmp_path):
    ended = typed("run", "--url", ELSEWHERE, "--out", tmp_path / "run", *LOAD, "--requests", 40, "--warmup", "0s")
    assert "40 requests, 4,000 input and 2,000 output tokens" in ended.stderr


def test_on_a_terminal_the_load_is_stated_and_no_is_taken_for_an_answer(tmp_path):
    ours, theirs = pty.openpty()
    command = [*installed(), "run", "--url", ELSEWHERE, "--out", str(tmp_path / "run"), "--requests", "40"]
    prices = ["--price-input", "2", "--price-output", "8"]
    process = subprocess.Popen(
        [*command, *map(str, LOAD), *prices], env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if said.endswith(b"Make it? [y/N]: "):
                os.write(ours, b"n\n")
        assert process.wait(PATIENCE_S) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(ours)
    words = said.decode()
    assert "This load goes to 192.0.2.1, which is not this machine:" in words
    assert "40 requests, 4,000 input and 2,000 output tokens" in words
    assert "cost: 0.02 (at 2 a million input tokens and 8 a million output tokens)" in words
    assert "not confirmed: nothing was sent" in words
    assert not (tmp_path / "run").exists()


def test_with_yes_it_is_stated_all_the_same(tmp_path):
    run = elsewhere(tmp_path, requests=1000, input_tokens=1000, output_tokens=500)
    words = stated(run, prices=Prices(3.0, 15.0))
    assert "1,000 requests, 1,000,000 input and 500,000 output tokens" in words
    assert "cost: 10.50" in words


def test_a_warm_up_that_may_become_longer_is_in_what_is_stated_and_one_that_was_given_is_no_other(tmp_path):
    made = spec(url=ELSEWHERE, workers=1, rate=10, arrivals="constant", requests=None, duration_s=20.0, warmup_s=2.0)
    follows = replace(made, stages=tuple(replace(stage, warmup_follows=True) for stage in made.stages))
    assert "  at most 300 requests, " in stated(Run(follows, tmp_path, credentials=[NOBODY]))
    assert "  220 requests, " in stated(Run(made, tmp_path, credentials=[NOBODY]))


def test_what_depends_on_the_endpoint_is_marked_and_explained(tmp_path):
    words = stated(elsewhere(tmp_path, concurrency=4, duration_s=60.0, requests=None))
    assert "~" in words
    assert "a faster endpoint" in words


def test_the_statement_of_a_search_says_what_bounds_it(tmp_path):
    made = spec(url=ELSEWHERE, workers=1, input_tokens=100, output_tokens=50)
    run = Run(replace(made, stages=()), tmp_path, credentials=[NOBODY])
    words = stated(run, prices=Prices(1.0, None), state=of_search("rate", 600.0, 25.0))
    assert "up to 25 requests a second for up to 600 s" in words
    assert "cost: about 0.10 for every 1,000 requests" in words
    assert "requests in flight" in stated(run, state=of_search("concurrency", 60.0, None))


def test_a_name_behind_a_proxy_is_another_machine_even_if_nobody_here_knows_it(tmp_path):
    made = spec(url="http://nobody.invalid", proxy="http://127.0.0.1:9", workers=1, requests=3)
    run = Run(made, tmp_path, credentials=[NOBODY])
    with pytest.raises(UsageError, match=r"nobody\.invalid is not this machine"):
        agreement(Console(file=io.StringIO()), Prices(None, None), yes=False, state=of_stages)(run)


def test_load_on_this_machine_is_neither_stated_nor_asked_about(tmp_path):
    run = Run(spec(url="http://localhost:9", workers=1), tmp_path, credentials=[NOBODY])
    assert stated(run) == ""


def test_a_plan_gives_the_cost(tmp_path):
    flags = ("--url", ELSEWHERE, "--requests", 1000, *LOAD, "--price-output", 10)
    assert "cost: 0.50 at these prices" in typed("plan", *flags).stdout
    assert json.loads(typed("plan", *flags, "--json").stdout)["cost"] == pytest.approx(0.5)


def test_an_open_loop_against_an_endpoint_that_fails_is_broken_off(tmp_path):
    rate = ("--rate", "50,80", "--duration", "60s", "--abort-on", "error-rate>50%/1s")
    with serve("--step", "1ms", "--fault", "error-500", "--fault-share", "0.8") as served:
        ended = typed(
            *("run", "--url", served.url, "--model", "sim", "--no-check", "--out", tmp_path / "run", *LOAD, *rate)
        )
    assert ended.returncode == 1, ended.stderr + ended.stdout
    assert "broken off by --abort-on error-rate>50%/1s" in ended.stderr
    stages = json.loads((tmp_path / "run/run.json").read_bytes())["stages"]
    assert [stage["outcome"]["reason"] for stage in stages] == ["cut", "skipped"]
    assert "requests that ended in the last 1 s failed" in stages[0]["outcome"]["words"]
    summary = json.loads((tmp_path / "run/summary.json").read_bytes())
    assert summary["stages"][0]["outcome"]["reason"] == "cut"
    told = [reason for reason in summary["verdict"]["reasons"] if reason["code"] == "broken-off"]
    assert len(told) == 1
    assert "--abort-on error-rate>50%/1s" in told[0]["words"]
    assert summary["spec"]["abort_on"] == "error-rate>50%/1s"


def test_with_never_a_failing_endpoint_is_measured_to_the_end(tmp_path):
    rate = ("--rate", 50, "--duration", "2s", "--warmup", "0s", "--abort-on", "never")
    with serve("--step", "1ms", "--fault", "error-500", "--fault-share", "0.8") as served:
        ended = typed(
            "run", "--url", served.url, "--model", "sim", "--no-check", "--out", tmp_path / "run", *LOAD, *rate
        )
    assert ended.returncode == 0, ended.stderr
    stages = json.loads((tmp_path / "run/run.json").read_bytes())["stages"]
    assert stages[0]["outcome"]["reason"] == "finished"


def test_a_condition_that_is_none_is_refused_in_a_sentence(tmp_path):
    ended = typed("run", "--url", "http://127.0.0.1:9", "--abort-on", "error-rate>half", "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert ended.stderr.startswith("loadgen: --abort-on: 'error-rate>half' is no condition; allowed is")


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_every_request_names_the_tool(transport, tmp_path):
    with canned(response(GOOD)) as server:
        one = ("--requests", 2, "--concurrency", 1, "--transport", transport, "--model", "m")
        ended = typed("run", "--url", server.url, "--out", tmp_path / "run", *LOAD, *one)
    assert ended.returncode == 0, ended.stderr
    agents = [line for request in server.requests for line in request.split(b"\r\n") if b"user-agent" in line.lower()]
    assert len(server.requests) == 3, "the check, and two of the run"
    assert set(agents) == {f"User-Agent: loadgen/{__version__}".encode()}
    assert len(agents) == 3
