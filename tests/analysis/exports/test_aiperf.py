import json

import numpy as np
import pytest
import reference
from everything import measured_rows

from analysis import summary
from analysis.exports import aiperf

UNITS = {
    "request_throughput": "requests/sec",
    "request_latency": "ms",
    "request_count": "requests",
    "time_to_first_token": "ms",
    "time_to_second_token": "ms",
    "inter_token_latency": "ms",
    "inter_chunk_latency": "ms",
    "output_token_throughput": "tokens/sec",
    "output_token_throughput_per_user": "tokens/sec/user",
    "output_sequence_length": "tokens",
    "input_sequence_length": "tokens",
    "reasoning_token_count": "tokens",
    "total_osl": "tokens",
    "total_isl": "tokens",
    "error_request_count": "requests",
    "goodput": "requests/sec",
    "benchmark_duration": "sec",
}
"""Tags and display units of AIPerf 0.13 (aiperf/metrics/types)."""


@pytest.fixture(scope="module")
def profiles(run_dir, tmp_path_factory):
    return [json.loads(path.read_text()) for path in aiperf.write(run_dir, tmp_path_factory.mktemp("aiperf"), 0)]


def test_metrics_have_aiperfs_tags_and_units(profiles):
    assert [one["schema_version"] for one in profiles] == ["1.4", "1.4"]
    seen = set()
    for one in profiles:
        told = {key: block["unit"] for key, block in one.items() if isinstance(block, dict) and "unit" in block}
        assert told.items() <= UNITS.items()
        seen |= set(told)
    assert seen == set(UNITS)


def test_values_are_those_of_the_requests(run_dir, profiles, everything):
    for stage, one in enumerate(profiles):
        good = measured_rows(everything, stage)
        ttft = [reference.ttft(r) / 1e6 for r in good]
        assert one["time_to_first_token"]["avg"] == pytest.approx(np.mean(ttft))
        assert one["time_to_first_token"]["p99"] == pytest.approx(np.percentile(ttft, 99))
        assert one["time_to_first_token"]["count"] == len(good)
        tpot = [value / 1e6 for r in good if (value := reference.tpot(r)) is not None]
        assert one["inter_token_latency"]["avg"] == pytest.approx(np.mean(tpot))
        assert one["output_token_throughput_per_user"]["avg"] == pytest.approx(np.mean([1e3 / value for value in tpot]))
        gaps = [gap / 1e6 for r in good for gap in reference.gaps(r)]
        assert one["inter_chunk_latency"]["avg"] == pytest.approx(np.mean(gaps))
        assert one["inter_chunk_latency"]["p90"] == pytest.approx(np.percentile(gaps, 90))
        assert one["total_osl"]["avg"] == sum(reference.output_tokens(r) for r in good)
        second = [(r["event_ns"][1] - r["event_ns"][0]) / 1e6 for r in good if len(r["event_ns"]) > 1]
        assert one["time_to_second_token"]["max"] == pytest.approx(max(second))
        told = summary.summarize(run_dir)["stages"][stage]
        assert one["request_throughput"]["avg"] == told["requests_per_s"]
        assert one["error_summary"] == [
            {"error_details": {"type": name, "message": name}, "count": count}
            for name, count in told["requests"]["errors"].items()
        ]
