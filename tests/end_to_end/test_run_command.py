"""The installed command against the simulated endpoint: real processes, sockets and kills, and the truth beside them."""

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from asked import PATIENCE_S, children, complaints, environment, gone, installed, rows, typed, until
from canned import canned

from analysis.captures import open_capture
from loadgen import host
from loadgen.local_run import choose_cores
from loadgen.simulator.process import Served, serve

KEY = "sk-0123456789-secret"
CORES = len(host.usable_cores())


def workers_for(in_flight: int) -> int:
    """How many workers there are by themselves for so many requests in flight."""
    return len(choose_cores(None, None, host.usable_cores(), in_flight, host.cpu_quota()))


# A stamp is converted from the wall clock; the two offsets in it are each known to some microseconds on a busy machine.
CLOCKS_ERROR_NS = 100_000


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    with serve("--step", "2ms", "--ttft", "3ms") as simulator:
        yield simulator


def sent(run_dir: Path) -> int:
    """What the captures say, so far, of the requests sent."""
    captures = [open_capture(path) for path in (run_dir / "capture").glob("*.arrow")]
    return sum(capture.watches[-1]["sent"] for capture in captures if capture is not None and capture.watches)


def summary(run_dir: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    return told


def run(
    url: str, run_dir: Path, *arguments: object, status: int = 0, page: bool = False, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """`loadgen run` to its end, with small requests unless `arguments` say otherwise."""
    ended = typed(
        *("run", "--url", url, "--out", run_dir, "--workers", 1, "--input-tokens", 20, "--output-tokens", 5),
        *arguments,
        *([] if page else ["--no-html"]),
        **variables,
    )
    assert ended.returncode == status, ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
    return ended


@contextmanager
def running(url: str, run_dir: Path, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """`loadgen run` while it goes on; ended at the latest with the block."""
    command = [*installed(), "run", "--url", url, "--model", "sim", "--no-html", "--out", str(run_dir)]
    command += map(str, arguments)
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def same_as_the_truth(run_dir: Path, served: Served, probes: int = 1) -> None:
    """Every request and every token of the capture is in the truth log, the other way round, and never before its cause."""
    captured = {row["response_id"]: row for row in rows(run_dir) if row["response_id"] is not None}
    truth = {row["response_id"]: row for row in served.truth().to_pylist() if row["response_id"] is not None}
    others = truth.keys() - captured.keys()
    assert len(captured) == sum(row["response_id"] is not None for row in rows(run_dir)), "ids are unique"
    assert captured
    assert captured.keys() <= truth.keys()
    assert len(others) == probes, "the check of the endpoint, and nothing else, is not in the capture"
    for name, row in captured.items():
        told = truth[name]
        assert len(row["event_ns"]) == len(told["event_ns"])
        assert row["output_tokens"] == told["output_tokens"]
        assert row["prompt_tokens"] == told["prompt_tokens"]
        assert row["sent_ns"] <= told["request_read_ns"]
        assert all(seen >= true - CLOCKS_ERROR_NS for seen, true in zip(row["event_ns"], told["event_ns"], strict=True))
        assert row["first_byte_ns"] >= told["first_byte_ns"] - CLOCKS_ERROR_NS
        assert row["last_byte_ns"] >= told["last_byte_ns"] - CLOCKS_ERROR_NS
        assert row["event_ns"] == sorted(row["event_ns"])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Served]]:
    """(run directory, stdout, simulator) of a run of several stages."""
    run_dir = tmp_path_factory.mktemp("stages") / "run"
    with serve("--step", "2ms", "--ttft", "3ms") as served:
        slo = "ttft=10s,tpot:p90=10s,itl=1us"
        ended = run(
            served.url,
            run_dir,
            "--concurrency",
            "1,2,6",
            "--requests",
            30,
            "--workers",
            "auto",
            "--slo",
            slo,
            page=True,
        )
        served.stop()
        yield run_dir, ended.stdout, served


def test_every_request_and_token_is_accounted_for(done):
    run_dir, _, served = done
    same_as_the_truth(run_dir, served)
    told = rows(run_dir)
    assert Counter(row["stage"] for row in told) == {0: 30, 1: 30, 2: 30}
    assert {(row["error"], row["status"], row["finish_reason"]) for row in told} == {(None, 200, "length")}
    assert {len(row["event_ns"]) for row in told} == {5}
    assert {row["prompt_tokens"] for row in told} == {20}
    assert all(row["kernel_stamps"] for row in told)


def in_window(run_dir: Path, stage: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a stage, by the summary's own window."""
    window = stage["window"]
    told = [row for row in rows(run_dir) if row["stage"] == stage["stage"]]
    return [row for row in told if window["start_ns"] <= row["sent_ns"] < window["stop_ns"]]


def most_at_once(told: list[dict[str, Any]], sends: list[dict[str, Any]]) -> int:
    """The most of `told` that were in flight at one of these sends."""
    return max(sum(row["sent_ns"] <= one["sent_ns"] < row["ended_ns"] for row in told) for one in sends)


def mean_gap_ms(run_dir: Path, stage: dict[str, Any]) -> float:
    gaps_ns = [b - a for row in in_window(run_dir, stage) for a, b in pairwise(row["event_ns"])]
    return sum(gaps_ns) / len(gaps_ns) / 1e6


def test_the_summary_keeps_its_contract(done):
    run_dir, _, _ = done
    told = summary(run_dir)
    assert {"schema", "verdict", "host", "spec", "stages"} <= told.keys()
    assert told["schema"] == 1
    assert told["verdict"].keys() == {"ok", "reasons"}
    assert told["spec"]["model"] == "sim", "the first model that the endpoint lists"
    assert [(stage["name"], stage["load"]) for stage in told["stages"]] == [
        (f"concurrency {level}", {"mode": "concurrency", "value": level}) for level in (1, 2, 6)
    ]
    numbers = {"count", "mean", "min", "p50", "p90", "p95", "p99", "p99_9", "p99_99", "max"}
    for stage, level in zip(told["stages"], (1, 2, 6), strict=True):
        for latency in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
            assert numbers <= stage[latency].keys()
        assert "ttft_intended_ms" in stage
        assert stage["requests"]["sent"] == stage["requests"]["completed"] + stage["requests"]["failed"]
        assert stage["requests"]["errors"] == {}
        assert stage["window_s"] > 0
        assert stage["output_tokens_per_s"] > stage["requests_per_s"] > 0
        assert stage["input_tokens_per_s"] > 0
        # Each worker has its part in flight; on a busy machine one may be through before another begins.
        asked = [row for row in rows(run_dir) if row["stage"] == stage["stage"]]
        parts = [[row for row in asked if row["worker"] == worker] for worker in {row["worker"] for row in asked}]
        assert sum(most_at_once(part, part) for part in parts) == level
        assert stage["concurrency"]["peak"] == most_at_once(asked, in_window(run_dir, stage)) <= level
        client = stage["client"]
        assert {"lag_us", "lateness_us", "coalesced_share", "cpu_share", "kernel_stamps"} <= client.keys()
        assert client["kernel_stamps"] is True
        assert len(client["cpu_share"]) == workers_for(6)
        # The engine's own time is the floor of what can be measured.
        assert stage["ttft_ms"]["min"] >= 3.0 - 0.1
        assert stage["itl_ms"]["mean"] == pytest.approx(mean_gap_ms(run_dir, stage))


def test_goodput_follows_the_objectives(done):
    for stage in summary(done[0])["stages"]:
        assert stage["goodput_per_s"] == 0, "no gap is as short as a microsecond"
        met = {name: limit["met_share"] for name, limit in stage["slo"].items()}
        assert met == {"ttft": 1.0, "tpot": 1.0, "itl": 0.0}


def test_the_histograms_can_be_read_by_their_own_reader(done):
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    reader = HistogramLogReader(str(done[0] / "histograms.hlog"), HdrHistogram(1, 3_600_000_000_000, 3))
    seen = 0
    while (histogram := reader.get_next_interval_histogram()) is not None:
        seen += histogram.get_total_count() > 0
    reader.input_file.close()
    assert seen >= 3


def test_the_terminal_shows_a_row_a_stage_the_verdict_and_where_the_files_are(done):
    _, said, _ = done
    for words in ("concurrency 1", "concurrency 2", "concurrency 6", "TTFT", "TPOT", "ITL", "req/s"):
        assert words in said
    assert "valid" in said or "suspect" in said
    assert "summary.json" in said.replace("\n", "")
    assert "\x1b" not in said


def test_report_gives_the_same_bytes_from_the_capture_alone(done):
    run_dir, _, _ = done
    written = (run_dir / "summary.json").read_bytes()
    log, page = ((run_dir / name).read_bytes() for name in ("histograms.hlog", "report.html"))
    (run_dir / "summary.json").unlink()
    (run_dir / "histograms.hlog").unlink()
    (run_dir / "report.html").unlink()
    reported = typed("report", run_dir, "--json")
    assert reported.returncode == 0
    assert (run_dir / "summary.json").read_bytes() == written == reported.stdout.encode()
    assert (run_dir / "histograms.hlog").read_bytes() == log
    assert (run_dir / "report.html").read_bytes() == page


def test_nothing_else_is_in_the_run_directory(done):
    run_dir, _, _ = done
    workers = [f"capture/worker-{worker:02}.arrow" for worker in range(workers_for(6))]
    files = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())
    assert files == [*workers, "histograms.hlog", "report.html", "run.json", "summary.json"]
    assert json.loads((run_dir / "run.json").read_bytes())["ended"] == {"reason": "finished", "words": ""}


@pytest.mark.parametrize(("transport", "api"), [("kernel", "completions"), ("aiohttp", "chat")])
def test_every_transport_and_api_accounts_for_every_token(transport, api, tmp_path):
    with serve("--step", "2ms", "--text", "unicode", "--split-writes", "--crlf", "--comments") as served:
        run(served.url, tmp_path / "run", "--transport", transport, "--api", api, "--concurrency", 4, "--requests", 20)
        served.stop()
        same_as_the_truth(tmp_path / "run", served)
    told = rows(tmp_path / "run")
    assert sorted(row["request_id"] for row in told) == list(range(20))
    assert {row["error"] for row in told} == {None}
    assert {row["kernel_stamps"] for row in told} == {transport == "kernel"}
    assert summary(tmp_path / "run")["spec"]["transport"] == transport


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_https_is_verified_and_accounts_for_every_token(transport, certificate, tmp_path):
    paths = [str(path) for path in certificate]
    with serve("--step", "2ms", "--tls-cert", paths[0], "--tls-key", paths[1]) as served:
        arguments = ("--transport", transport, "--concurrency", 3, "--requests", 9, "--tls-ca", paths[0])
        run(served.url, tmp_path / "run", *arguments)
        untrusted = run(served.url, tmp_path / "no", "--requests", 1, "--transport", transport, status=1)
        served.stop()
        same_as_the_truth(tmp_path / "run", served)
    assert served.url.startswith("https://")
    assert "is not trusted" in untrusted.stderr
    assert not (tmp_path / "no").exists()


def test_a_duration_bounds_the_sending(quick, tmp_path):
    run(quick.url, tmp_path / "run", "--concurrency", 4, "--duration", "400ms", "--warmup", "100ms")
    told = rows(tmp_path / "run")
    (mark,) = open_capture(tmp_path / "run" / "capture" / "worker-00.arrow").watches[-1]["stages"]
    assert 390_000_000 < mark["stop_ns"] - mark["measure_ns"] <= 400_000_000
    assert mark["measure_ns"] - mark["start_ns"] == 100_000_000
    assert min(row["sent_ns"] for row in told) >= mark["start_ns"]
    assert sum(row["sent_ns"] > mark["stop_ns"] for row in told) <= 4, "at most one a slot was on its way"
    (stage,) = summary(tmp_path / "run")["stages"]
    assert 0.39 < stage["window_s"] <= 0.4, "a timer may fire within its millisecond"
    in_window = [row for row in told if mark["measure_ns"] <= row["sent_ns"] < mark["stop_ns"]]
    assert stage["requests"]["sent"] == len(in_window)
    assert stage["warmup_requests"] == sum(row["sent_ns"] < mark["measure_ns"] for row in told)


@pytest.mark.skipif(CORES < 2, reason="two workers need two cores")
def test_the_same_seed_asks_the_same_whatever_the_number_of_workers(tmp_path):
    asked = {}
    for workers in (1, 2):
        with serve("--step", "2ms", "--prefill-rate", "1000000") as served:
            arguments = ("--concurrency", "1,5", "--requests", 11, "--workers", workers, "--seed", 3)
            run(served.url, tmp_path / str(workers), *arguments)
        told = rows(tmp_path / str(workers))
        assert {row["worker"] for row in told} == set(range(workers))
        asked[workers] = sorted((row["request_id"], row["request_bytes"], row["prompt_tokens"]) for row in told)
    assert asked[1] == asked[2]
    assert len({number for number, _, _ in asked[1]}) == 22


def test_strict_makes_a_suspect_run_exit_with_3(quick, tmp_path):
    # Two requests are no median.
    arguments = ("--concurrency", 1, "--requests", 2)
    assert "suspect" in run(quick.url, tmp_path / "run", *arguments, "--strict", status=3).stdout
    assert summary(tmp_path / "run")["verdict"]["ok"] is False
    assert typed("report", tmp_path / "run", "--no-html").returncode == 0
    assert typed("report", tmp_path / "run", "--no-html", "--strict").returncode == 3


FAULTS = {
    "error-429": "http-429",
    "error-500": "http-500",
    "html": "not-a-stream",
    "not-a-stream": "not-a-stream",
    "empty": "empty",
    "reset-mid-stream": "truncated",
    "truncate": "truncated",
    "missing-end": "truncated",
    "error-event": "server-error",
    "close-after-response": None,
    "close-idle": None,
}


def test_what_goes_wrong_is_classed_and_counted(tmp_path):
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    with serve("--step", "2ms", "--fault-share", "0.5", "--seed", "3", *faults) as served:
        arguments = ("--concurrency", 4, "--requests", 200, "--no-check", "--model", "sim")
        ended = run(served.url, tmp_path / "run", *arguments)
        served.stop()
        truth = served.truth().to_pylist()
    told = rows(tmp_path / "run")
    assert len(told) == 200
    expected = Counter(FAULTS[row["fault"]] if row["fault"] else None for row in truth)
    # A request over a connection that was just being closed is sent again, and fails if that is closed too: none here.
    assert Counter(row["error"] for row in told) == expected
    assert set(FAULTS.values()) <= expected.keys(), "each fault was met"
    (stage,) = summary(tmp_path / "run")["stages"]
    requests = stage["requests"]
    assert requests["sent"] == requests["completed"] + requests["failed"] <= 200
    assert sum(requests["errors"].values()) == requests["failed"] > 0
    assert stage["client"]["reopened_connections"] > 0
    assert "suspect" in ended.stdout
    by_id = {row["response_id"]: row for row in truth if row["response_id"]}
    for row in told:
        if row["response_id"] is not None:
            assert len(row["event_ns"]) <= len(by_id[row["response_id"]]["event_ns"])


def test_one_ctrl_c_ends_the_stage_drains_and_reports(quick, tmp_path):
    arguments = ("--concurrency", "4,8", "--duration", "1h", "--warmup", "0", "--output-tokens", 20)
    with running(quick.url, tmp_path / "run", *arguments) as process:
        until(lambda: len(rows(tmp_path / "run")) > 8, "some requests")
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert complaints(complained) == []
    assert "Interrupted: sending no more, waiting for what is in flight (again: stop at once)." in complained
    assert "suspect" in said
    told = rows(tmp_path / "run")
    assert {row["error"] for row in told} == {None}
    assert sent(tmp_path / "run") == len(told)
    (stage,) = summary(tmp_path / "run")["stages"]
    assert stage["requests"]["completed"] > 8
    assert "run-interrupted" in {reason["code"] for reason in summary(tmp_path / "run")["verdict"]["reasons"]}
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["ended"]["reason"] == "interrupted"


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """A token at once, and the next one in a minute."""
    with serve("--step", "60s", "--mode", "independent", "--role-event", "early") as simulator:
        yield simulator


def test_ctrl_c_twice_stops_at_once_and_the_captures_still_read(slow, tmp_path):
    arguments = ("--concurrency", 25, "--duration", "1h", "--warmup", "0", "--drain", "1h", "--no-check")
    with running(slow.url, tmp_path / "run", *arguments) as process:
        until(lambda: (tmp_path / "run" / "capture").exists() and sent(tmp_path / "run") == 25, "all slots in flight")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        until(lambda: "Interrupted" in process.stderr.readline(), "the first one's line")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert [row["error"] for row in rows(tmp_path / "run")] == ["unfinished"] * 25
    told = summary(tmp_path / "run")
    assert told["stages"][0]["requests"]["errors"] == {"unfinished": 25}
    assert told["capture"]["cut_workers"] == []
    assert "suspect" in said


def test_a_supervisors_sigterm_stops_at_once_and_reports(slow, tmp_path):
    arguments = ("--concurrency", 5, "--duration", "1h", "--warmup", "0", "--drain", "1h", "--no-check")
    with running(slow.url, tmp_path / "run", *arguments) as process:
        until(lambda: (tmp_path / "run" / "capture").exists() and sent(tmp_path / "run") == 5, "all slots in flight")
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert complaints(complained) == []
    assert "Told to end: what is in flight is cancelled." in complained
    assert "suspect" in said
    assert [row["error"] for row in rows(tmp_path / "run")] == ["unfinished"] * 5
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["ended"]["reason"] == "interrupted"


def test_ctrl_c_before_there_is_a_run_leaves_none(tmp_path):
    asked, released = threading.Event(), threading.Event()

    def hang(_request: bytes) -> bytes:
        asked.set()
        released.wait(PATIENCE_S)
        return b""

    with canned(hang) as server:
        with running(server.url, tmp_path / "run") as process:
            until(asked.is_set, "the check")
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=PATIENCE_S)
        released.set()
    assert (process.returncode, said, complained.strip()) == (130, "", "loadgen: interrupted")
    assert not (tmp_path / "run").exists()


def test_a_killed_worker_is_a_reported_loss(quick, tmp_path):
    with running(quick.url, tmp_path / "run", "--concurrency", 4, "--duration", "1h", "--warmup", "0") as process:
        until(lambda: len(rows(tmp_path / "run")) > 8, "some requests")
        workers = children(process.pid)
        os.kill(workers[-1], signal.SIGKILL)
        said, complained = process.communicate(timeout=PATIENCE_S)
    last = len(workers) - 1
    assert process.returncode == 1
    how = "killed by signal 9: by somebody, or by the kernel for its memory"
    assert complained == f"loadgen: worker {last} ended in mid-run ({how})\n"
    assert all(gone(worker) for worker in workers)
    told = summary(tmp_path / "run")
    assert told["capture"]["cut_workers"] == [last]
    assert {reason["code"] for reason in told["verdict"]["reasons"]} >= {"run-failed", "capture-cut"}
    assert told["stages"][0]["requests"]["completed"] > 0, "what was measured is reported"
    assert "did not close their capture" in said


def test_a_server_that_dies_ends_the_run_with_words(tmp_path):
    with serve("--step", "2ms") as served:
        arguments = ("--concurrency", "4,8", "--requests", 160, "--no-check", "--workers", 1)
        with running(served.url, tmp_path / "run", *arguments) as process:
            until(lambda: len(rows(tmp_path / "run")) > 8, "some requests")
            served.kill()
            _, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert complaints(complained)[0].startswith("loadgen: connect-refused: ")
    told = rows(tmp_path / "run")
    errors = Counter(row["error"] for row in told)
    # unfinished: what was still on its way when the run gave up.
    assert errors.keys() <= {None, "truncated", "connect-reset", "connect-refused", "unfinished"}
    assert errors["connect-refused"] > 0
    assert sent(tmp_path / "run") == len(told)
    assert summary(tmp_path / "run")["stages"][0]["requests"]["errors"]["connect-refused"] > 0


def test_the_key_is_sent_and_appears_nowhere(tmp_path):
    variables = environment(OPENAI_API_KEY=KEY)
    os.environ["SIMULATOR_KEY"] = KEY
    try:
        with serve("--step", "2ms", "--api-key-env", "SIMULATOR_KEY") as locked:
            command = [
                "run",
                "--url",
                locked.url,
                "--out",
                str(tmp_path / "run"),
                "--duration",
                "1h",
                "--warmup",
                "0",
                "--concurrency",
                "2",
            ]
            with subprocess.Popen(
                [*installed(), *command], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                workers = until(
                    lambda: len(children(process.pid)) == workers_for(2) and children(process.pid), "workers"
                )
                until(lambda: len(rows(tmp_path / "run")) > 2, "some requests")
                commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *workers)]
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        del os.environ["SIMULATOR_KEY"]
    assert process.returncode == 130, said
    assert {row["status"] for row in rows(tmp_path / "run")} == {200}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for data in (said.encode(), *commands, *(path.read_bytes() for path in files)):
        assert KEY.encode() not in data


def test_a_run_without_a_name_goes_below_runs(quick, tmp_path):
    ended = subprocess.run(
        [*installed(), "run", "--url", quick.url, "--requests", "1", "--output-tokens", "2"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name[:8].isdecimal()
    assert f"runs/{run_dir.name}" in ended.stdout
    assert summary(run_dir)["stages"][0]["requests"]["completed"] == 1


def test_the_environments_base_url_is_enough(quick, tmp_path):
    ended = typed("run", "--out", tmp_path / "run", "--no-html", "--requests", "1", OPENAI_BASE_URL=quick.url)
    assert ended.returncode == 0, ended
    assert quick.url in ended.stdout
