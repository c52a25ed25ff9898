import json

import numpy as np
import pytest
import reference
from everything import measured_rows

from analysis.exports import guidellm

DISTRIBUTION = {
    "mean",
    "median",
    "mode",
    "variance",
    "std_dev",
    "min",
    "max",
    "count",
    "total_sum",
    "percentiles",
}
"""guidellm/schemas/base/statistics.py: DistributionSummary, less its optional pdf."""


@pytest.fixture(scope="module")
def report(run_dir, tmp_path_factory):
    (path,) = guidellm.write(run_dir, tmp_path_factory.mktemp("guidellm"), 0)
    return json.loads(path.read_text())


def test_a_benchmark_a_stage_in_the_shape_of_a_report(report):
    assert report["metadata"]["version"] == 2
    assert [one["type_"] for one in report["benchmarks"]] == ["generative_benchmark"] * 2
    assert [one["config"]["strategy"]["type_"] for one in report["benchmarks"]] == ["concurrent", "constant"]
    for one in report["benchmarks"]:
        assert one["end_time"] - one["start_time"] == pytest.approx(one["duration"], abs=1e-5)
        for name in ("request_latency", "time_to_first_token_ms", "inter_token_latency_ms", "time_per_output_token_ms"):
            found = one["metrics"][name]["successful"]
            assert set(found) == DISTRIBUTION
            assert set(found["percentiles"]) == set(guidellm.PERCENTILES)
        totals = one["metrics"]["request_totals"]
        assert totals["total"] == totals["successful"] + totals["incomplete"] + totals["errored"]
    assert report["benchmarks"][1]["metrics"]["request_totals"] == {
        "successful": 140,
        "incomplete": 20,
        "errored": 20,
        "total": 180,
    }


def test_times_a_token_are_a_requests_mean_and_count_as_often_as_it_has_tokens(report, everything):
    """GuideLLM's own words: 1000 (last - first) / (tokens - 1), and 1000 (last - start) / tokens."""
    metrics, good = report["benchmarks"][0]["metrics"], measured_rows(everything, 0)
    tokens = np.array([len(r["event_ns"]) for r in good])
    span = np.array([(r["event_ns"][-1] - r["event_ns"][0]) / 1e6 for r in good])
    some = tokens > 1
    found = metrics["inter_token_latency_ms"]["successful"]
    assert found["count"] == (tokens - 1).sum()
    assert found["mean"] == pytest.approx(span[some].sum() / (tokens[some] - 1).sum(), rel=1e-6)
    whole = np.array([reference.e2e(r) / 1e6 for r in good])
    assert metrics["time_per_output_token_ms"]["successful"]["mean"] == pytest.approx(whole.sum() / tokens.sum())


def test_ttft_and_latency_are_those_of_the_requests(report, everything):
    metrics, good = report["benchmarks"][0]["metrics"], measured_rows(everything, 0)
    ttft = [reference.ttft(r) / 1e6 for r in good]
    found = metrics["time_to_first_token_ms"]["successful"]
    assert found["mean"] == pytest.approx(np.mean(ttft))
    assert found["std_dev"] == pytest.approx(np.std(ttft))
    assert found["percentiles"]["p99"] == pytest.approx(np.percentile(ttft, 99, method="inverted_cdf"))
    assert found["median"] == pytest.approx(np.percentile(ttft, 50, method="inverted_cdf"))
    latency = [reference.end_of_stream(r) / 1e9 for r in good]
    assert metrics["request_latency"]["successful"]["max"] == pytest.approx(max(latency))
