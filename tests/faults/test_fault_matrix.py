"""The fault matrix: what servers do wrong, over both transports, with exact accounts: it costs one request alone."""

import random
from collections import Counter
from pathlib import Path

import pytest
from accounts import Ran, accounts_are_even, ran
from asked import in_one_of
from misbehaving import FAULTS, GOOD, Fault, Misbehaving, misbehaving

TRANSPORTS = ("kernel", "aiohttp")
# Longer than a busy machine holds up what does come.
LIMITS = ("--first-byte-timeout", "3s", "--idle-timeout", "3s", "--timeout", "10s")

WAITED_FOR = {name: fault for name, fault in FAULTS.items() if (fault.error or "").startswith("timeout")}
"""Those that only a limit ends."""

ENDING = {name: fault for name, fault in FAULTS.items() if name not in WAITED_FOR}


def interleaved(faults: dict[str, Fault]) -> list[Fault]:
    return [each for fault in faults.values() for each in (fault, GOOD)]


@pytest.fixture(scope="module", params=TRANSPORTS)
def one_by_one(request, tmp_path_factory) -> tuple[Ran, Misbehaving]:
    """Every fault that ends once, each followed by a good response, on one slot: request 2k meets fault k."""
    run_dir = tmp_path_factory.mktemp("faults") / "run"
    with misbehaving(interleaved(ENDING)) as server:
        arguments = ("--transport", request.param, "--concurrency", 1, "--requests", 2 * len(ENDING))
        return ran(server.url, run_dir, *arguments), server


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_does_not_come_is_given_up_at_its_limit_and_the_next_request_is_none_the_worse(transport, tmp_path):
    in_one_of(3, lambda attempt: given_up_at_its_limit(transport, tmp_path / f"run-{attempt}"))


def given_up_at_its_limit(transport: str, run_dir: Path) -> None:
    """Where the machine stands still for longer than a limit, that is over for those that would have come, too."""
    plan = [*WAITED_FOR.values(), *[GOOD] * len(WAITED_FOR)]
    with misbehaving(plan) as server:
        load = ("--concurrency", len(WAITED_FOR), "--requests", len(plan))
        done = ran(server.url, run_dir, "--transport", transport, *load, *LIMITS)
    accounts_are_even(done)
    assert len(WAITED_FOR) == 3
    seen = Counter((row["error"], len(row["event_ns"]), row["status"]) for row in done.rows)
    assert seen == Counter((fault.error, fault.events, fault.status) for fault in plan)
    for row in done.rows:  # the clock of a limit runs from the send, or from the last byte
        limit_s = {"timeout-first-byte": 3, "timeout-idle": 3, "timeout-total": 10}.get(row["error"], 0)
        assert row["ended_ns"] - row["sent_ns"] >= limit_s * 0.99e9


@pytest.mark.parametrize("name", ENDING)
def test_a_fault_is_classed_and_keeps_what_came(name, one_by_one):
    run, _ = one_by_one
    row = run.rows[2 * list(ENDING).index(name)]
    fault = ENDING[name]
    assert (row["error"], len(row["event_ns"]), row["status"]) == (fault.error, fault.events, fault.status)


@pytest.mark.parametrize("name", ENDING)
def test_the_request_behind_a_fault_is_none_the_worse(name, one_by_one):
    run, _ = one_by_one
    row = run.rows[2 * list(ENDING).index(name) + 1]
    assert (row["error"], len(row["event_ns"]), row["status"]) == (GOOD.error, GOOD.events, 200)


def test_the_run_over_all_faults_ends_by_itself_with_even_accounts(one_by_one):
    run, server = one_by_one
    assert run.status == 0, run.complained
    accounts_are_even(run)
    assert [row["request_id"] for row in run.rows] == list(range(2 * len(ENDING)))
    (stage,) = run.summary["stages"]
    expected = Counter(fault.error for fault in interleaved(ENDING))
    completed = expected.pop(None)
    assert stage["requests"]["sent"] == 2 * len(ENDING)
    assert stage["requests"]["completed"] == completed
    assert Counter(stage["requests"]["errors"]) == expected
    assert len(server.requests) == 2 * len(ENDING), "every request came, and none of them changed on the way"
    assert not server.swallowed, "no flood was taken to its end"
    assert {reason["code"] for reason in run.summary["verdict"]["reasons"]} >= {"errors"}


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_faults_at_once_are_all_accounted_for(transport, tmp_path):
    in_one_of(3, lambda attempt: many_at_once(transport, tmp_path / f"run-{attempt}"))


def many_at_once(transport: str, run_dir: Path) -> None:
    plan = 2 * interleaved(FAULTS)
    random.Random(1).shuffle(plan)
    with misbehaving(plan) as server:
        load = ("--concurrency", 8, "--requests", len(plan))
        done = ran(server.url, run_dir, "--transport", transport, *load, *LIMITS)
    accounts_are_even(done)
    assert done.status == 0, done.complained
    seen = Counter((row["error"], len(row["event_ns"]), row["status"]) for row in done.rows)
    assert seen == Counter((fault.error, fault.events, fault.status) for fault in plan)
