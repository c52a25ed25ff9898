"""Several agents with real workers against a real endpoint: one load, exactly counted, and what is left when one dies."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import asked
import numpy as np
import pyarrow.compute as pc
import pytest
from agents import Where
from asked import PATIENCE_S, children, gone, in_one_of, stage_spec, until

from analysis.captures import open_run
from loadgen import host, planner
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.cluster import agent
from loadgen.crew import Order
from loadgen.dialects.credentials import Credentials
from loadgen.errors import RunError, UsageError
from loadgen.job import counted, make_load
from loadgen.plan import Share
from loadgen.schema import CaptureError
from loadgen.simulator.process import serve
from loadgen.spec.targets import made
from loadgen.workload.script import Calibration


@pytest.fixture
def quick():
    with serve("--step", "2ms") as simulator:
        yield simulator


def spec(**changes):
    """Whatever was sent is waited for: on a busy machine an answer may be long in coming."""
    return asked.spec(**{"drain_s": PATIENCE_S} | changes)


def left_behind(tmp_path):
    """What agents have written and not removed."""
    return list((tmp_path / "temporary").rglob("*"))


def test_three_nodes_send_the_schedule_of_one_machine_and_every_request_and_token_is_counted(quick, tmp_path, drive):
    wanted = spec(url=quick.url, rate=600, duration_s=2.0, output_tokens=4, seed=3)
    driven = drive(wanted)
    assert not driven.job.words
    quick.stop()
    truth = quick.truth()
    rows = asked.rows(driven.run_dir)
    planned = planner.schedules(wanted)[0].due_ns
    assert len(rows) == len(truth) == len(planned) > 1000
    assert sum(row["output_tokens"] for row in rows) == pc.sum(truth["output_tokens"]).as_py() == 4 * len(planned)
    assert {row["response_id"] for row in rows} == set(truth["response_id"].to_pylist()), "not one twice"
    assert len({row["request_id"] for row in rows}) == len(rows)
    # Due exactly when one machine's would have been: the process is the same one, not one like it.
    by_id = sorted(rows, key=lambda row: row["request_id"])
    assert [row["worker"] for row in by_id] == [k % 3 for k in range(len(rows))]
    first_ns = by_id[0]["intended_ns"] - int(planned[0])
    apart_ns = [row["intended_ns"] - int(due_ns) - first_ns for row, due_ns in zip(by_id, planned, strict=True)]
    stage = driven.summary()["stages"][0]
    unsure_ns = sum(2 * one["clock_uncertainty_us"] * 1000 for one in stage["by_node"])
    assert max(map(abs, apart_ns)) <= NS_PER_MS + unsure_ns
    assert sum(one["sent"] for one in stage["by_node"]) == stage["requests"]["sent"] == len(planned)
    assert [one["node"] for one in stage["by_node"]] == [0, 1, 2]


def test_concurrency_adds_up_and_units_are_dealt_once(quick, drive):
    driven = drive(spec(url=quick.url, concurrency=(4, 7), requests=50, output_tokens=2))
    quick.stop()
    rows = asked.rows(driven.run_dir)
    for stage in (0, 1):
        ids = sorted(row["request_id"] & 0xFFFFFFFF for row in rows if row["stage"] == stage)
        assert ids == list(range(50))
    assert len(quick.truth()) == 100
    peaks = [stage["concurrency"]["peak"] for stage in driven.summary()["stages"]]
    # Each worker has its part at once; on a busy machine one may be through before another begins.
    for stage, shares in enumerate([(2, 1, 1), (3, 2, 2)]):
        for worker, share in enumerate(shares):
            theirs = [row for row in rows if (row["stage"], row["worker"]) == (stage, worker)]
            at_once = [sum(one["sent_ns"] <= row["sent_ns"] < one["ended_ns"] for one in theirs) for row in theirs]
            assert max(at_once) == share
        assert peaks[stage] <= sum(shares)
    prompts = [row["request_id"] for row in rows]
    assert len(set(prompts)) == 100


def test_sessions_and_drawn_lengths_come_from_every_node_as_from_one_machine(quick, drive, tmp_path):
    more = {"turns": "uniform:1..3", "input_tokens": "uniform:4..40", "sessions": 12, "concurrency": 3, "seed": 5}
    driven = drive(spec(url=quick.url, **more), out=tmp_path / "three")
    assert not driven.job.words
    three = asked.rows(driven.run_dir)
    one = asked.rows(drive(spec(url=quick.url, **more), (Where(),), out=tmp_path / "one").run_dir)

    def said(rows):
        return sorted((row["request_id"], row["turn"], row["wanted_input_tokens"]) for row in rows)

    assert said(three) == said(one)
    assert {row["worker"] for row in three} == {0, 1, 2}


def test_two_targets_get_their_shares_from_all_nodes(quick, drive):
    with serve("--step", "2ms") as other:
        wanted = spec(url=quick.url, rate=200, duration_s=1.5, output_tokens=3)
        tables = [
            {"url": (one.url,), "model": "sim", "name": name, "weight": weight}
            for one, name, weight in ((quick, "a", 3.0), (other, "b", 1.0))
        ]
        targets = made(tables, {field.name: getattr(wanted, field.name) for field in fields(wanted)})
        driven = drive(replace(wanted, targets=targets))
        for one in (quick, other):
            one.stop()
        arrived = [len(one.truth()) for one in (quick, other)]
    assert not driven.job.words
    rows = asked.rows(driven.run_dir)
    assert sum(arrived) == len(rows) > 200
    assert 0.6 < arrived[0] / len(rows) < 0.9
    assert {row["worker"] for row in rows} == {0, 1, 2}


@pytest.fixture
def other_time():
    """Runs a command where CLOCK_MONOTONIC shows something else, as on another machine."""
    command = ("unshare", "--time", "--monotonic", "4321")
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=30, check=False)
    if tried.returncode:
        pytest.skip("time namespaces are not allowed here")
    return command


def test_nodes_whose_clocks_show_something_else_have_one_start_and_one_time_line(quick, drive, other_time):
    wheres = [Where(), Where(under=other_time), Where()]
    driven = drive(spec(url=quick.url, rate=300, duration_s=1.5, output_tokens=3), wheres)
    assert not driven.job.words
    quick.stop()
    nodes = driven.facts["nodes"]
    assert abs(nodes[1]["clock"][0][1] + 4321 * NS_PER_S) <= nodes[1]["clock_uncertainty_ns"]
    from analysis.opened import opened

    run = opened(driven.run_dir)
    starts = {mark["start_ns"] for capture in run.run.captures for mark in capture.watches[-1]["stages"]}
    unsure_ns = max(node["clock_uncertainty_ns"] for node in nodes)
    assert max(starts) - min(starts) <= NS_PER_MS + 2 * unsure_ns
    # The server is on the driver's clock: it has read no request before it was sent, and not an hour after.
    read_ns = dict(zip(*(quick.truth()[name].to_pylist() for name in ("response_id", "request_read_ns")), strict=True))
    for piece in run.pieces():
        sent = zip(piece.rows.sent_ns.tolist(), piece.rows.response_id.to_pylist(), strict=True)
        ways_ns = np.array([read_ns[name] - sent_ns for sent_ns, name in sent])
        assert (ways_ns >= -unsure_ns).all()
        assert ways_ns.max() < asked.PATIENCE_S * NS_PER_S, "far less than the clocks are apart"
    raw = [row for row in asked.rows(driven.run_dir) if row["worker"] == 1]
    assert all(row["sent_ns"] > 4321 * NS_PER_S for row in raw), "a capture is left as its node wrote it"


# --- results ---


def test_captures_that_stay_on_their_nodes_are_counted_there_and_give_the_same_summary(quick, drive):
    wanted = spec(url=quick.url, rate=200, duration_s=1.5, output_tokens=3)
    driven = drive(wanted, collect="nodes", analysed=True)
    assert not list((driven.run_dir / "capture").rglob("*.arrow"))
    assert driven.summary() == driven.analysis.summary, "from what was counted, which is in RUN"
    with pytest.raises(CaptureError, match=r"copy them from .*\(to capture/node-0\)"):
        open_run(driven.run_dir)
    for node in driven.facts["nodes"]:
        _, _, folder = node["captures"].partition(":")
        target = driven.run_dir / "capture" / f"node-{node['node']}"
        shutil.copytree(Path(folder) / "capture", target, dirs_exist_ok=True)
        shutil.rmtree(folder)
    assert driven.summary() == driven.analysis.summary
    assert driven.analysis.summary["stages"][0]["requests"]["completed"] == len(planner.schedules(wanted)[0].due_ns)


def test_captures_go_into_a_store_laid_out_as_in_a_run_and_leave_nothing_behind(quick, drive, tmp_path):
    store = tmp_path / "store"
    wanted = spec(url=quick.url, concurrency=3, requests=30, output_tokens=3, save_bodies=True)
    driven = drive(wanted, collect=store.as_uri(), analysed=True)
    assert len(list(store.glob("capture/node-*/worker-*.arrow"))) == 3
    assert len(list(store.glob("bodies/node-*/worker-*.jsonl"))) == 3
    shutil.copytree(store / "capture", driven.run_dir / "capture", dirs_exist_ok=True)
    assert driven.summary() == driven.analysis.summary
    assert len(asked.rows(driven.run_dir)) == 30
    assert not left_behind(tmp_path)


def test_a_store_that_takes_nothing_is_refused_before_the_start(quick, drive, tmp_path):
    store = tmp_path / "store"
    store.write_text("a file")
    with pytest.raises(UsageError, match=r"does not take the captures of node 0.*; allowed is a store that every node"):
        drive(spec(url=quick.url, concurrency=3), collect=store.as_uri())
    quick.stop()
    assert not len(quick.truth())


def test_a_store_that_takes_nothing_any_more_is_said_and_the_captures_are_kept(quick, drive, tmp_path):
    store = tmp_path / "store"

    def lose(*_):
        shutil.rmtree(store)
        store.write_text("a file")

    driven = drive(spec(url=quick.url, concurrency=3), collect=store.as_uri(), meanwhile=lose)
    assert "does not take the captures of node 0" in driven.said
    for node in driven.facts["nodes"]:
        _, _, folder = node["captures"].partition(":")
        assert list(Path(folder).rglob("worker-*.arrow"))
        shutil.rmtree(folder)


def test_bodies_come_to_the_driver_for_its_user_alone(quick, drive):
    driven = drive(spec(url=quick.url, concurrency=3, requests=9, save_bodies=True))
    bodies = list((driven.run_dir / "bodies").glob("node-*/worker-*.jsonl"))
    assert len(bodies) == 3
    assert sum(len(path.read_text().splitlines()) for path in bodies) == 9
    assert all(path.stat().st_mode & 0o077 == 0 for path in bodies)


def test_a_run_that_grows_is_made_by_all_nodes(quick, drive):
    def load(job):
        def grow(job, progress):
            for level in (3, 6):
                number = job.run.add(stage_spec(concurrency=level, requests=4 * level))
                job.stage(number, progress)
                there = [row for row in asked.rows(job.run.run_dir) if row["stage"] == number]
                assert len(there) == 4 * level, "what a stage has left is there when it ends"
                assert counted(job.run).summary["stages"][number]["load"]["value"] == level

        make_load(job, grow, command="saturate")

    driven = drive(replace(spec(url=quick.url), stages=()), load=load)
    assert not driven.job.words
    assert [stage["outcome"]["reason"] for stage in driven.facts["stages"]] == ["finished", "finished"]
    quick.stop()
    assert len(quick.truth()) == 36


def test_a_stage_that_is_cut_ends_on_all_nodes(quick, drive):
    def load(job):
        def cut(job, progress):
            outcome = job.stage(0, progress, lambda now: "enough" if now.completed > 20 else "")
            assert (outcome.reason, outcome.words) == ("cut", "enough")

        make_load(job, cut, command="run")

    driven = drive(spec(url=quick.url, concurrency=6, requests=None, duration_s=60.0), load=load)
    assert not driven.job.words


def test_an_endpoint_that_only_fails_ends_the_run_with_its_own_words(drive):
    with serve("--step", "2ms", "--fault", "error-500", "--fault-share", "1") as failing:
        driven = drive(spec(url=failing.url, concurrency=6, requests=None, duration_s=60.0))
    assert "500" in driven.job.words
    assert driven.facts["ended"]["reason"] == "failed"


# --- failure ---


def kill_in_mid_run(number: int, after: int = 40):
    """Kills one agent as soon as the nodes have completed so many requests."""

    def meanwhile(engine, fleet, _job):
        def watch():
            until(lambda: sum(n.latest.completed for n in fleet.nodes if n.latest) >= after, "the load to flow")
            engine.processes[number].kill()

        threading.Thread(target=watch, daemon=True).start()

    return meanwhile


@pytest.mark.alone
def test_a_node_whose_workers_are_held_up_again_and_again_is_named_slow(quick, drive, tmp_path):
    def hold_up(engine, fleet, _job):
        def pulse():
            until(lambda: all(n.latest and n.latest.completed for n in fleet.nodes), "the load to flow")
            (worker,) = children(engine.processes[1].pid)
            with contextlib.suppress(ProcessLookupError):
                while True:
                    for number in (signal.SIGSTOP, signal.SIGCONT):
                        os.kill(worker, number)
                        time.sleep(0.4)  # the hold-up itself, and the time between two

        threading.Thread(target=pulse, daemon=True).start()

    for attempt in range(3):  # a machine that stands still makes the others late, too, and that can only hide it
        wanted = spec(url=quick.url, rate=90, duration_s=4.0, output_tokens=3)
        driven = drive(wanted, meanwhile=hold_up, out=tmp_path / f"run-{attempt}", analysed=True)
        reasons = {reason["code"]: reason for reason in driven.analysis.summary["verdict"]["reasons"]}
        if "slow-node" in reasons:
            break
    assert "node 1 " in reasons["slow-node"]["words"]


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_node_that_dies_is_a_loss_of_its_share_exact_to_its_last_batch(drive, policy, tmp_path):
    in_one_of(3, lambda attempt: one_dies(drive, policy, tmp_path, attempt))


def one_dies(drive, policy, tmp_path, attempt):
    """On a busy machine it may have sent all of its share before it is killed."""
    with serve("--step", "2ms") as quick:
        wanted = spec(url=quick.url, rate=150, duration_s=4.0, output_tokens=3)
        began_s = time.monotonic()
        driven = drive(wanted, meanwhile=kill_in_mid_run(1), on_node_loss=policy, out=tmp_path / f"run-{attempt}")
        assert time.monotonic() - began_s < PATIENCE_S
        quick.stop()
        truth = set(quick.truth()["response_id"].to_pylist())
    lost = [node["lost"] for node in driven.facts["nodes"]]
    assert lost[0] is None
    assert lost[2] is None
    assert lost[1]["words"]
    assert "node 1" in driven.said + driven.job.words
    rows = asked.rows(driven.run_dir)
    sent_by = [sum(row["worker"] == worker for row in rows) for worker in range(3)]
    if policy == "continue":
        assert not driven.job.words
        planned = len(planner.schedules(wanted)[0].due_ns)
        assert sent_by[0] + sent_by[2] == sum(k % 3 != 1 for k in range(planned)), "the others are whole"
        assert 0 < sent_by[1] < planned // 3
    else:
        assert "node 1" in driven.job.words
        assert driven.facts["ended"]["reason"] == "failed"
    # Whatever was answered and captured is there; the workers of the dead agent write what they have when it is gone.
    assert {row["response_id"] for row in rows if row["response_id"]} <= truth
    missing = truth - {row["response_id"] for row in rows}
    unanswered = sum(row["response_id"] is None for row in rows)  # cancelled after the server had read them
    assert len(missing) <= 100 + unanswered, (
        "no more than a batch, which is written every second, or two on a busy machine"
    )
    told = driven.summary()
    assert not told["verdict"]["ok"]
    assert not left_behind(tmp_path), "the dead one's files were here, and have been gathered"


def test_a_worker_that_dies_costs_its_node_and_its_capture_is_gathered(quick, drive):
    def meanwhile(engine, fleet, _job):
        def watch():
            # Some two seconds: a batch, which is written every second, is all that may be lost.
            until(lambda: sum(n.latest.completed for n in fleet.nodes if n.latest) >= 300, "the load to flow")
            os.kill(children(engine.processes[2].pid)[0], 9)

        threading.Thread(target=watch, daemon=True).start()

    wanted = spec(url=quick.url, rate=150, duration_s=4.0, output_tokens=3)
    driven = drive(wanted, meanwhile=meanwhile, on_node_loss="continue")
    lost = driven.facts["nodes"][2]["lost"]
    assert "worker" in lost["words"]
    assert sum(row["worker"] == 2 for row in asked.rows(driven.run_dir)) > 0
    assert not driven.job.words


def test_workers_are_gone_soon_after_the_driver_and_captures_stay_readable(quick, tmp_path):
    in_one_of(3, lambda attempt: gone_soon(quick.url, tmp_path / f"run-{attempt}"))


def gone_soon(url: str, run_dir: Path) -> None:
    script = f"""
import sys, json
import loadgen.cluster.fleet
sys.path.append({os.path.dirname(os.path.abspath(asked.__file__))!r})
import agents, asked
from agents import TOKEN, Where
from rich.console import Console
from loadgen.cluster.fleet import Fleet
from loadgen.job import every_stage, make_load, prepared
from pathlib import Path
with agents.processes(Where(), Where()) as engine, Fleet(engine, TOKEN) as fleet:
    spec = asked.spec(url={url!r}, concurrency=4, requests=None, duration_s=60.0, output_tokens=3)
    job = prepared(spec, Path({str(run_dir)!r}), Console(file=sys.stderr), no_check=True, place=fleet)
    print(json.dumps([process.pid for process in engine.processes]), flush=True)
    make_load(job, every_stage, command="run")
"""
    driver = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        agents_ = json.loads(driver.stdout.readline())
        until(lambda: len(asked.rows(run_dir)) > 20, "rows to come to the driver")
        workers = [pid for agent in agents_ for pid in children(agent)]
        assert len(workers) >= 2
        driver.kill()
        driver.wait()
        killed_s = time.monotonic()
        until(lambda: all(gone(pid) for pid in workers), "the workers to be gone")
        assert time.monotonic() - killed_s < 5 * 5, "5 s, on a machine that may be five times as slow"
        until(lambda: all(gone(pid) for pid in agents_), "the agents to be gone")
    finally:
        driver.kill()
        driver.stdout.close()
    assert len(asked.rows(run_dir)) > 20


# --- refused before the start ---


@pytest.mark.parametrize(
    ("pretends", "words"),
    [
        ((("loadgen", "0.0.1"),), "has loadgen 0.0.1, this machine has"),
        ((("schema", 99),), "has schema 99"),
        ((("numpy", "1.0"),), "has numpy 1.0"),
        ((("python", "3.9"),), "has python 3.9"),
    ],
)
def test_another_version_is_refused(drive, pretends, words):
    with pytest.raises(UsageError, match="allowed is the same on all of them") as caught:
        drive(spec(), (Where(), Where(pretends=pretends)))
    assert "node 1" in str(caught.value)
    assert words in str(caught.value)


def test_a_wall_clock_that_is_far_off_is_refused(drive):
    off = host.facts() and (("realtime_offset_ns", 0),)
    with pytest.raises(RunError, match=r"the wall clock of node 0 .* behind this machine's"):
        drive(spec(), (Where(pretends=off),))


def test_an_endpoint_that_a_node_does_not_reach_is_refused_before_the_start(drive, tmp_path):
    driven = drive(spec(url="http://127.0.0.1:9"), (Where(), Where()))
    assert "takes no connection from" in driven.job.words
    assert "node 0" in driven.job.words
    assert not left_behind(tmp_path)


def test_more_nodes_than_requests_in_flight_are_refused(drive):
    with pytest.raises(UsageError, match="--nodes: 3 nodes have more workers than the 2 that may be in flight"):
        drive(spec(concurrency=2))


def test_nodes_that_have_other_data_make_another_digest(tmp_path):
    def digest(words: str, **changes) -> str:
        (tmp_path / "data.jsonl").write_text(words)
        wanted = spec(dataset=str(tmp_path / "data.jsonl"), input_tokens=None, **changes)
        order = Order(wanted, [Credentials()], Calibration(), "r", 1, tmp_path, Share(0, 1, 1), (None,))
        return agent._digest(order)

    one = digest('{"prompt": "a"}')
    assert digest('{"prompt": "a"}') == one
    assert digest('{"prompt": "b"}') != one


def test_a_node_that_would_make_other_requests_is_refused(quick, drive, tmp_path):
    def meanwhile(engine, _fleet, _job):
        told = engine.call

        def call(method, arguments):
            answers = told(method, arguments)
            if method == "prepare":
                answers[1]["digest"] = "another"
            return answers

        engine.call = call

    driven = drive(spec(url=quick.url), meanwhile=meanwhile, wheres=(Where(),) * 2)
    assert "would make other requests than the rest" in driven.job.words
    assert not left_behind(tmp_path)


def test_a_key_is_in_nothing_that_is_written(quick, drive, monkeypatch, tmp_path):
    key = "sk-cluster-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    driven = drive(spec(url=quick.url, requests=12, concurrency=3))
    assert list(driven.job.run.credentials) == [Credentials(key)]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert all(key.encode() not in path.read_bytes() for path in written)
