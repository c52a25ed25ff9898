"""The installed command on a real Ray cluster of three raylets; `make test-ray` runs these, with the extra installed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import asked
import pyarrow.compute as pc
import pyarrow.fs as fs
import pytest
from asked import environment, gone, in_one_of, installed, until

from loadgen.simulator.process import serve

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SMALL = ("--model", "sim", "--input-tokens", "16", "--output-tokens", "3", "--no-html")


TOKEN = "5d9f0a3c71be42d8a6c4e80f17b25693"
"""Of the cluster. Ray takes one from the user's home if it is not told, and makes one there if there is none."""

ANOTHER_TOKEN = "00aa" * 8


class Beside:
    """A script of this folder in a process of its own, until its input is closed; `told` is the line that it says first."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name(script)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, f"{script} did not start"
        self.told = json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Raylets(Beside):
    """The cluster's process, its address, that of its jobs, and the process ids of its raylets: the first is the head's."""

    def __init__(self) -> None:
        super().__init__("raylets.py", "3")
        self.address, self.jobs = self.told["address"], f"http://{self.told['dashboard']}"
        self.pids = self.told["raylets"]

    def job(self, *words: str) -> None:
        """What a user types: ray job submit, stop, ..."""
        ray = Path(sys.executable).with_name("ray")
        verb, *rest = words
        subprocess.run([ray, "job", verb, "--address", self.jobs, *rest], check=True, capture_output=True, timeout=100)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("ray.util", reason="needs the extra `ray`")
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        # What the nodes write to a store with.
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        raylets = Raylets()
        try:
            yield raylets
        finally:
            raylets.close()


@pytest.fixture(scope="module", autouse=True)
def strangers(cluster, tmp_path_factory):
    """Commands with a token that is not the cluster's, by what it is. Ray tries for some 20 s: they try beside the tests."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "another").write_text(ANOTHER_TOKEN)
    load = ("--rate", "10", "--duration", "1s", "--no-check", "--ray", cluster.address, "--out", str(folder / "run"))
    started = {
        given: subprocess.Popen(
            [*installed(), "run", "--url", "http://127.0.0.1:9", *SMALL, *load],
            env=environment(RAY_AUTH_TOKEN_PATH=str(folder / given)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for given in ("another", "none")
    }
    try:
        yield started, folder / "run"
    finally:
        for one in started.values():
            one.kill()
            one.communicate()


@pytest.fixture
def quick():
    with serve("--step", "2ms") as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(asked, "PATIENCE_S", 100.0)


def typed(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command to its end."""
    return subprocess.run(
        [*installed(), *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def facts(run_dir: Path) -> dict:
    return json.loads((run_dir / "run.json").read_bytes())


def below(pid: int) -> list[int]:
    """What any thread of a process has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    found = []
    for one in lists:
        with contextlib.suppress(OSError):
            found += map(int, one.read_text().split())
    return found


def all_below(pids: list[int]) -> list[int]:
    """And what that has started, and so on."""
    found = [one for pid in pids for one in below(pid)]
    return found and [*found, *all_below(found)]


def workers_of(cluster: Raylets) -> list[int]:
    """The process ids of loadgen's workers on all nodes."""
    found = []
    for pid in all_below(cluster.pids):
        with contextlib.suppress(OSError):
            if b"loadgen.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_three_nodes_make_one_load_and_everything_adds_up_to_the_servers_own_log(cluster, quick, tmp_path):
    load = ("--rate", "600", "--duration", "3s", "--seed", "3", "--warmup", "0")
    ended = typed(
        "run", "--url", quick.url, *SMALL, *load, "--ray", cluster.address, "--out", tmp_path / "run", "--no-check"
    )
    assert ended.returncode == 0, ended
    quick.stop()
    truth, rows = quick.truth(), asked.rows(tmp_path / "run")
    plan = json.loads(typed("plan", "--url", quick.url, *SMALL[:-1], *load, "--json").stdout)
    assert len(rows) == len(truth) == plan["stages"][0]["arrivals"] > 1500
    assert {row["response_id"] for row in rows} == set(truth["response_id"].to_pylist())
    assert sum(row["output_tokens"] for row in rows) == pc.sum(truth["output_tokens"]).as_py() == 3 * len(rows)
    assert all(row["error"] is None for row in rows)
    first_ns = min(row["intended_ns"] for row in rows)
    unsure_ns = max(node["clock_uncertainty_ns"] for node in facts(tmp_path / "run")["nodes"])
    begins = [row["intended_ns"] - first_ns for row in sorted(rows, key=lambda row: row["request_id"])][:5]
    planned_ns = [
        round((at_s - plan["stages"][0]["first_arrivals_s"][0]) * 1e9) for at_s in plan["stages"][0]["first_arrivals_s"]
    ]
    assert all(abs(one - other) <= 1_000_000 + 2 * unsure_ns for one, other in zip(begins, planned_ns, strict=True))
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert [node["node"] for node in summary["nodes"]] == [0, 1, 2]
    assert sum(node["sent"] for node in summary["stages"][0]["by_node"]) == len(rows)
    assert "by node" in ended.stdout
    again = typed("report", tmp_path / "run", "--json", "--no-html")
    assert json.loads(again.stdout) == summary


def test_a_sweep_and_its_resumption_on_the_cluster(cluster, quick, tmp_path):
    run_dir = tmp_path / "sweep"
    more = ("--concurrency", "3,6", "--duration", "3s", "--warmup", "0", "--check-requests", "0")
    ended = typed("sweep", "--url", quick.url, *SMALL, *more, "--ray", cluster.address, "--out", run_dir)
    assert ended.returncode == 0, ended
    told = facts(run_dir)
    del told["stages"][1]["outcome"]  # as if it had been interrupted before
    (run_dir / "run.json").write_text(json.dumps(told))
    ended = typed("sweep", "--resume", run_dir, "--ray", cluster.address, "--nodes", "2", "--no-html")
    assert ended.returncode == 0, ended
    told = facts(run_dir)
    assert [(node["part"], node["node"]) for node in told["nodes"]] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert [stage["outcome"]["reason"] for stage in told["stages"]] == ["finished", "finished"]
    summary = json.loads((run_dir / "summary.json").read_bytes())
    assert [len(stage["by_node"]) for stage in summary["stages"]] == [3, 2]
    assert all(stage["requests"]["completed"] > 10 for stage in summary["stages"])


def test_a_search_works_on_the_cluster_with_captures_that_stay_on_the_nodes(cluster, quick, tmp_path):
    more = ("--budget", "15s", "--start", "3", "--most", "6", "--collect", "nodes")
    ended = typed("saturate", "--url", quick.url, *SMALL, *more, "--ray", cluster.address, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended
    told = json.loads((tmp_path / "run" / "saturation.json").read_bytes())
    assert [point["load"] for point in told["points"]] == [3, 6]
    for node in facts(tmp_path / "run")["nodes"]:
        folder = Path(node["captures"].partition(":")[2])
        assert list(folder.rglob("worker-*.arrow"))
        subprocess.run(["rm", "-r", str(folder)], check=True)


def test_captures_go_into_an_s3_store_with_the_credentials_of_the_nodes(cluster, quick, tmp_path):
    pytest.importorskip("moto", reason="needs the packages of make test-ray")
    store = Beside("store.py")
    try:
        where = f"endpoint_override=127.0.0.1:{store.told['port']}&scheme=http&region=us-east-1"
        load = ("--concurrency", "3", "--requests", "60", "--warmup", "0", "--ray", cluster.address)
        run = ("run", "--url", quick.url, *SMALL, *load)
        refused = typed(*run, "--collect", f"s3://other/first?{where}", "--out", tmp_path / "refused")
        assert refused.returncode == 2
        assert "--collect: s3://other/first" in refused.stderr
        assert "NO_SUCH_BUCKET" in refused.stderr
        assert not (tmp_path / "refused").exists()
        uri = f"s3://captures/first?{where}"
        ended = typed(*run, "--collect", uri, "--out", tmp_path / "run")
        assert ended.returncode == 0, ended
        summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
        assert not list(tmp_path.rglob("*.arrow"))
        assert {node["captures"] for node in facts(tmp_path / "run")["nodes"]} == {uri}
        fs.copy_files(uri, (tmp_path / "run").as_uri())
        assert sorted(path.parent.name for path in tmp_path.rglob("*.arrow")) == ["node-0", "node-1", "node-2"]
        assert len(asked.rows(tmp_path / "run")) == 60
        again = typed("report", tmp_path / "run", "--json", "--no-html")
        assert json.loads(again.stdout) == summary, "what the nodes counted is what is in their captures"
    finally:
        store.close()


CANCELLED = ("--concurrency", "6", "--duration", "10m")


def see_workers_end(cluster: Raylets, run_dir: Path, end: Callable[[], object]) -> None:
    """Their captures grow; then they are brought to their end, in time."""
    until(lambda: (run_dir / "run.json").exists() and len(asked.rows(run_dir)) > 20, "rows to come")
    workers = workers_of(cluster)
    assert len(workers) == 3
    end()
    told_s = time.monotonic()
    until(lambda: all(gone(pid) for pid in workers), "the workers to be gone")
    took_s = time.monotonic() - told_s
    assert len(asked.rows(run_dir)) > 20
    assert json.loads(typed("report", run_dir, "--json", "--no-html").stdout)["stages"]
    assert took_s < 25, "5 s, on a machine that may be five times as slow"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_are_gone_5_s_after_the_command_and_captures_stay_readable(cluster, quick, tmp_path, number):
    """SIGKILL is what a driver's own death is."""

    def end_the_command(attempt: int) -> None:
        run_dir = tmp_path / f"run-{attempt}"
        more = (*CANCELLED, "--ray", cluster.address, "--out", str(run_dir))
        driver = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "run", "--url", quick.url, *SMALL, *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            see_workers_end(cluster, run_dir, lambda: driver.send_signal(number))
            driver.wait(60)
        finally:
            driver.kill()
            driver.wait()

    in_one_of(2, end_the_command)


def test_workers_are_gone_5_s_after_their_ray_job_is_stopped_and_captures_stay_readable(cluster, quick, tmp_path):
    def stop_the_job(attempt: int) -> None:
        run_dir, name = tmp_path / f"run-{attempt}", f"load-{attempt}"
        more = (*CANCELLED, "--ray", "auto", "--out", str(run_dir))
        command = (*installed(), "run", "--url", quick.url, *SMALL, *more)
        cluster.job("submit", "--no-wait", "--submission-id", name, "--", *command)
        see_workers_end(cluster, run_dir, lambda: cluster.job("stop", "--no-wait", name))

    in_one_of(2, stop_the_job)


def test_the_token_of_the_cluster_is_in_no_file_and_no_argument(cluster, quick, tmp_path):
    load = ("--concurrency", "3", "--requests", "9", "--warmup", "0", "--ray", cluster.address)
    ended = typed("run", "--url", quick.url, *SMALL[:-1], *load, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended
    assert TOKEN not in ended.stdout + ended.stderr
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("given", ["another", "none"])
def test_a_token_that_is_not_the_clusters_is_told_in_one_sentence_without_it(cluster, strangers, given):
    started, run_dir = strangers
    _, wrong = started[given].communicate(timeout=200)
    assert started[given].returncode == 2
    (sentence,) = wrong.splitlines()
    assert sentence.startswith(f"loadgen: --ray: the cluster at {cluster.address} cannot be joined: ")
    assert "with RAY_AUTH_MODE=token" in sentence
    assert ANOTHER_TOKEN not in sentence
    assert TOKEN not in sentence
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ray", "ray://127.0.0.1:1"), "--ray: a Ray Client address"),
        (("--ray", "127.0.0.1:9"), "--ray: nobody answers at 127.0.0.1:9 (Connection refused); allowed is auto"),
        (("--ray", "nonsense"), "--ray: there is no cluster at 'nonsense'"),
        (
            ("--ray", "{address}", "--nodes", "9"),
            "--nodes: the cluster has 3 nodes with a CPU to give, 9 are asked for",
        ),
        (("--nodes", "2"), "--nodes: it is about the nodes of a cluster; give --ray, too"),
        (("--ray", "{address}", "--collect", "ftp://x/y"), "--collect: 'ftp://x/y' is no store"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(cluster, tmp_path, flags, words):
    given = [one.format(address=cluster.address) for one in flags]
    ended = typed(
        "run",
        "--url",
        "http://127.0.0.1:9",
        *SMALL,
        "--rate",
        "10",
        "--duration",
        "1s",
        "--no-check",
        *given,
        "--out",
        tmp_path / "run",
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


# The last one: it costs the cluster a node.
def test_killing_a_node_in_mid_run_leaves_the_others_whole_and_the_command_ends_by_itself(cluster, quick, tmp_path):
    more = ("--rate", "150", "--duration", "8s", "--seed", "3", "--warmup", "0", "--on-node-loss", "continue")
    run_dir = tmp_path / "run"

    def kill():
        until(lambda: (run_dir / "run.json").exists() and len(asked.rows(run_dir)) > 150, "the load to flow")
        for pid in (
            cluster.pids[2],
            *all_below([cluster.pids[2]]),
        ):  # all that there is of a machine that loses its power
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ended = typed("run", "--url", quick.url, *SMALL, *more, "--ray", cluster.address, "--out", run_dir)
    killer.join()
    assert ended.returncode == 0, ended
    quick.stop()
    lost = [node for node in facts(run_dir)["nodes"] if node["lost"]]
    assert len(lost) == 1
    workers = range(*lost[0]["workers"])
    rows = asked.rows(run_dir)
    planned = json.loads(typed("plan", "--url", quick.url, *SMALL[:-1], *more[:-2], "--json").stdout)["stages"][0][
        "arrivals"
    ]
    theirs = [row for row in rows if row["worker"] not in workers]
    assert len(theirs) == sum(k % 3 not in workers for k in range(planned)), "the others are whole"
    truth = set(quick.truth()["response_id"].to_pylist())
    captured = {row["response_id"] for row in rows if row["response_id"]}
    assert captured <= truth
    unanswered = sum(row["response_id"] is None for row in rows)  # cancelled after the server had read them
    assert len(truth - captured) <= 150 + unanswered, "no more than a batch of the one that was lost"
    summary = json.loads((run_dir / "summary.json").read_bytes())
    assert "node-lost" in {reason["code"] for reason in summary["verdict"]["reasons"]}
    assert "is lost" in ended.stderr
