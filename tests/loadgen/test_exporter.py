"""The live metrics as Prometheus reads them: over HTTP, through the reference's own parsers."""

import socket
import urllib.request
from contextlib import ExitStack
from dataclasses import replace

import pytest
from asked import PATIENCE_S
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from watched import START

from loadgen import exporter
from loadgen.board import BUCKETS, bucket_of
from loadgen.errors import UsageError
from loadgen.exporter import OPEN_METRICS, TEXT, Exporter, Totals

MS = 1_000_000

STAGES = [
    {"name": 'one "quoted" \\ \x1b[2J', "load": {"mode": "concurrency", "value": 8}},
    {"name": "two", "load": {"mode": "rate", "value": 3.5}},
]


def counts(*values_ms: float) -> tuple[int, ...]:
    found = [0] * BUCKETS
    for value_ms in values_ms:
        found[bucket_of(round(value_ms * MS))] += 1
    return tuple(found)


NOW = replace(
    START,
    elapsed_s=4.0,
    in_flight=8,
    sent=20,
    completed=10,
    failed=1,
    cancelled=1,
    events=500,
    reads=700,
    decoded_reads=600,
    lag_ns=35_000,
    cpu_ns=(1_000_000_000, 1_200_000_000),
    ttft_counts=counts(40, 50, 60),
    tpot_counts=counts(10, 10, 11),
)


@pytest.fixture
def totals() -> Totals:
    made = Totals({"run_id": "r", "version": "1", "model": "m"}, STAGES)
    made(NOW)
    return made


def samples(families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(text: str, name: str, /, **labels: str) -> float:
    return samples(prometheus(text))[name, tuple(sorted(labels.items()))]


def test_both_formats_are_what_prometheus_reads(totals):
    plain, modern = totals.text(), totals.text(open_metrics=True)
    kinds = {family.name: family.type for family in open_metrics(modern)}
    assert kinds["loadgen_live_requests"] == "counter"
    assert kinds["loadgen_live_ttft_seconds"] == "histogram"
    assert kinds["loadgen_live_run"] == "info"
    assert kinds["loadgen_live_in_flight"] == "gauge"
    assert samples(prometheus(plain)) == samples(open_metrics(modern))
    assert "\x1b" not in plain


def test_a_run_that_has_not_begun_has_a_page_too():
    text = Totals({"run_id": "r"}, STAGES).text()
    assert value(text, "loadgen_live_requests_total", outcome="completed") == 0


def test_what_the_board_says_is_on_the_page(totals):
    text = totals.text()
    assert value(text, "loadgen_live_requests_total", outcome="completed") == 10
    assert value(text, "loadgen_live_requests_total", outcome="failed") == 1
    assert value(text, "loadgen_live_in_flight") == 8
    assert value(text, "loadgen_live_lag_seconds") == pytest.approx(35e-6)
    assert value(text, "loadgen_live_worker_cpu_seconds_total", worker="1") == 1.2
    assert value(text, "loadgen_live_ttft_seconds_count") == 3
    assert value(text, "loadgen_live_ttft_seconds_sum") == pytest.approx(0.150, rel=0.06)
    buckets = {
        float(dict(labels)["le"]): found
        for (name, labels), found in samples(prometheus(text)).items()
        if name == "loadgen_live_ttft_seconds_bucket"
    }
    assert list(buckets.values()) == sorted(buckets.values()), "counts below a bound never fall"
    assert buckets[float("inf")] == 3
    assert max(found for bound, found in buckets.items() if bound <= 0.039) == 0


def test_counters_and_histograms_go_on_over_the_stages(totals):
    totals(replace(NOW, stage=1, completed=2, sent=5, events=50, ttft_counts=counts(70), in_flight=3))
    text = totals.text()
    assert value(text, "loadgen_live_requests_total", outcome="completed") == 12
    assert value(text, "loadgen_live_sent_total") == 25
    assert value(text, "loadgen_live_ttft_seconds_count") == 4
    assert value(text, "loadgen_live_in_flight") == 3
    assert value(text, "loadgen_live_stage_info", stage="1", name="two", mode="rate", load="3.5") == 1


def fetched(port: int, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_the_page_is_served_in_the_format_that_was_asked_for(totals):
    with Exporter("127.0.0.1", 0) as serving:
        serving.totals = totals
        kind, text = fetched(serving.port)
        assert (kind, value(text, "loadgen_live_in_flight")) == (TEXT, 8)
        kind, text = fetched(serving.port, Accept="application/openmetrics-text; version=1.0.0")
        assert kind == OPEN_METRICS
        assert text.endswith("# EOF\n")
        with pytest.raises(urllib.error.HTTPError) as other, other_page(serving.port):
            pass
        other.value.close()
        assert other.value.code == 404


def other_page(port: int):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/passwd", timeout=PATIENCE_S)


def test_readers_who_say_nothing_hold_up_nobody(totals, monkeypatch):
    monkeypatch.setattr(exporter, "MOST_READERS", 4)
    with ExitStack() as stack:
        serving = stack.enter_context(Exporter("127.0.0.1", 0))
        serving.totals = totals
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", serving.port)))
        assert "loadgen_live_in_flight 8" in fetched(serving.port)[1]
    # and with them still connected the block has ended


def test_a_port_that_is_taken_is_refused_before_anything_is_sent():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="--prometheus: cannot listen"),
    ):
        Exporter("127.0.0.1", taken.getsockname()[1])
