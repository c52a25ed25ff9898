"""A run that is watched: what the server says of itself beside what we measured, live metrics, trace contexts."""

import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asked import PATIENCE_S, environment, installed, rows, typed, until
from canned import canned, free_port, refused_port, response
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from scraped import scrapes_in

from loadgen.schema import trace_number
from loadgen.simulator.process import serve

SMALL = ("--workers", 1, "--input-tokens", 20)

STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


def at_once(spans_ns: list[tuple[int, int]], from_ns: int, to_ns: int) -> tuple[int, int]:
    """The fewest and the most of these spans that hold a moment between two, which a busy machine may set far apart."""
    changes = [at_ns for span in spans_ns for at_ns in span if from_ns < at_ns < to_ns]
    counts = [sum(first <= at_ns < last for first, last in spans_ns) for at_ns in (from_ns, *changes, to_ns)]
    return min(counts), max(counts)


@contextmanager
def started(command: list[object]) -> Iterator[subprocess.Popen[str]]:
    """A command under way, and gone afterwards."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def running_in(run_dir: Path) -> list[float]:
    """What the scrapes say, so far, of the requests that run."""
    try:
        _, _, samples = scrapes_in(run_dir / "capture" / "scrape.arrow")
    except (OSError, ValueError):  # it is not there yet, or a batch is half written
        return []
    return [row["value"] for row in samples if row["name"] == "vllm:num_requests_running"]


def test_the_servers_story_is_aligned_with_the_load(tmp_path):
    run_dir = tmp_path / "run"
    with serve("--step", "20ms") as served:
        page = served.url.removesuffix("/v1") + "/metrics"
        command = [*installed(), "run", "--url", served.url, "--model", "sim", "--no-check", "--out", run_dir, *SMALL]
        command += ["--output-tokens", 60, "--concurrency", "0..6@3s+6@1h", "--scrape", page, "--scrape-every", "100ms"]
        with started(command) as process:
            # The scraper gives way to all others, so it may be a while.
            until(lambda: sum(value >= 5 for value in running_in(run_dir)) >= 5, "scrapes of the whole load")
            process.send_signal(2)
            said, wrong = process.communicate(timeout=PATIENCE_S)
        served.stop()
        truth = {row["response_id"]: row for row in served.truth().to_pylist()}
    assert process.returncode == 130, wrong
    assert "the server's own metrics" in said
    told = rows(run_dir)
    _, scrapes, samples = scrapes_in(run_dir / "capture" / "scrape.arrow")
    # Where there is no time left, it says so.
    assert {one["error"] for one in scrapes} <= {None, "not answered before the run's end", "no answer within 5 s"}
    seen = {
        (row["t_send_ns"], row["t_recv_ns"]): row["value"]
        for row in samples
        if row["name"] == "vllm:num_requests_running"
    }
    assert len(seen) >= 5
    assert max(seen.values()) >= 5, "it saw the load rise"
    # A request is on its way to the engine, runs, and is on its way back: the page tells of what runs.
    surely = [(truth[row["response_id"]]["request_read_ns"], truth[row["response_id"]]["event_ns"][-1]) for row in told]
    at_most = [(row["sent_ns"], row["ended_ns"]) for row in told]
    for (sent_ns, received_ns), running in seen.items():
        assert at_once(surely, sent_ns, received_ns)[0] <= running <= at_once(at_most, sent_ns, received_ns)[1]

    (stage,) = json.loads((run_dir / "summary.json").read_bytes())["stages"]
    server = stage["server"]
    assert server["sources"][0]["server"] == "vLLM"
    assert 0 < server["running"]["mean"] <= server["running"]["max"] <= max(seen.values())
    assert server["sources"][0]["span_s"] > 0
    assert server["ttft_ms"]["count"] > 0
    assert len(server["timeline"][0]["running"]["t_s"]) >= 5


def test_pages_that_are_dead_or_silent_disturb_nothing_and_are_told(tmp_path):
    run_dir, released = tmp_path / "run", threading.Event()

    def hang(_request: bytes) -> bytes:
        released.wait(PATIENCE_S)
        return b""

    dead = f"http://127.0.0.1:{refused_port()}/metrics"
    with serve("--step", "2ms") as served, canned(hang) as slow:
        ended = typed(
            *("run", "--url", served.url, "--out", run_dir, *SMALL, "--output-tokens", 5),
            *("--no-html", "--concurrency", 2, "--requests", 40, "--scrape", dead, "--scrape", slow.url),
        )
        released.set()
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"--scrape {dead}: cannot connect: connection refused" in ended.stderr
    assert len(rows(run_dir)) == 40
    summary = json.loads((run_dir / "summary.json").read_bytes())
    assert summary["stages"][0]["server"] is None
    assert summary["stages"][0]["requests"]["completed"] == 40
    assert [(source["url"], source["failed"] == source["scrapes"]) for source in summary["server"]] == [
        (dead, True),
        (slow.url, True),
    ]
    assert "scrapes failed" in " ".join(ended.stdout.split())


def test_live_metrics_are_served_while_a_run_goes_on(tmp_path):
    with serve("--step", "2ms") as served:
        port = free_port()
        command = [*installed(), "run", "--url", served.url, "--out", tmp_path / "run", *SMALL, "--output-tokens", 5]
        command += ["--concurrency", 3, "--duration", "60s", "--prometheus", port]
        with started(command) as process:
            families = until(lambda: completed(port), "completed requests on the page")
            process.send_signal(2)
            _, wrong = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in wrong
    assert f"Live metrics: http://127.0.0.1:{port}/metrics" in wrong
    by_name = {family.name: family for family in families}
    assert by_name["loadgen_live_stage"].samples[0].labels["mode"] == "concurrency"
    assert by_name["loadgen_live_ttft_seconds"].type == "histogram"
    assert any(sample.value for sample in by_name["loadgen_live_ttft_seconds"].samples)


def completed(port: int):
    """The families of the page, once it has completed requests; else None."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except OSError:
        return None
    done = {
        sample.labels["outcome"]: sample.value
        for family in families
        if family.name == "loadgen_live_requests"
        for sample in family.samples
    }
    return families if done["completed"] else None


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_each_request_carries_the_trace_context_of_its_span(transport, tmp_path):
    run_dir = tmp_path / "run"
    with canned(response(STREAM)) as server:
        ended = typed(
            *("run", "--url", server.url, "--model", "m", "--out", run_dir, *SMALL, "--output-tokens", 5),
            *(
                "--concurrency",
                1,
                "--requests",
                5,
                "--no-check",
                "--no-html",
                "--traceparent",
                "--transport",
                transport,
            ),
        )
    assert ended.returncode == 0, ended.stderr
    sent = [re.search(rb"\r\ntraceparent: ([^\r]*)\r\n", request)[1].decode() for request in server.requests]
    run_id = json.loads((run_dir / "run.json").read_bytes())["run_id"]
    numbers = [f"{trace_number(row['request_id']):016x}" for row in rows(run_dir)]
    assert sorted(sent) == sorted(f"00-{run_id}{number}-{number}-01" for number in numbers)
    exported = typed("export", run_dir, "--format", "otlp")
    assert exported.returncode == 0, exported.stderr
    spans = json.loads(Path(exported.stdout.strip()).read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {f"00-{span['traceId']}-{span['spanId']}-01" for span in spans} == set(sent)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scrape", "localhost:8000"], "--scrape: 'localhost:8000' is no URL; allowed is http"),
        (["--scrape", "http://u:hunter2@h/metrics"], "--scrape: the URL holds a password"),
        (["--scrape", "http://h/metrics?token=hunter2"], "--scrape: token in the URL looks like a secret"),
        (["--scrape", "http://h/metrics", "--scrape", "http://h"], "--scrape: the same URL twice"),
        (["--scrape-every", "1ms"], "too short"),
        (["--prometheus", "h:x"], "--prometheus: 'h:x' is no address; allowed is [HOST:]PORT"),
        (["--prometheus", "70000"], "--prometheus: '70000' is no address"),
        (["--traceparent", "--header", "Traceparent: x"], "--traceparent: --header has a traceparent of its own"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_is_sent(arguments, words, tmp_path):
    ended = typed("run", "--url", "http://127.0.0.1:1", "--out", tmp_path / "run", *arguments)
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr
    assert "hunter2" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
