import json

import numpy as np
import pytest
import reference
from everything import measured_rows
from synthetic import START_NS, row, stage_plan, write_run

from analysis import summary
from analysis.exports import vllm

MAIN = {
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
}
BENCHMARK = {
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
}
DETAILED = {
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
}
STATISTICS = {
    f"{which}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for which in ("mean", "median", "std", "p99")
}
QUEUE = {f"{which}_client_queue_time_ms" for which in ("mean", "median", "std", "p99")}
QUEUE_AND_RATE = {f"{which}_e2el_including_client_queue_ms" for which in ("mean", "median", "std", "p99")}


@pytest.fixture(scope="module")
def results(run_dir, tmp_path_factory):
    paths = vllm.write(run_dir, tmp_path_factory.mktemp("vllm"), 0)
    assert [path.name for path in paths] == ["stage-0.vllm.json", "stage-1.vllm.json"]
    return [json.loads(path.read_text()) for path in paths]


def test_every_key_of_a_detailed_result_is_there(results):
    """Of vLLM 0.3x, vllm/benchmarks/serve.py: main_async, benchmark and process_one_metric write these."""
    assert set(results[0]) >= MAIN | BENCHMARK | DETAILED | STATISTICS | QUEUE
    assert set(results[1]) >= MAIN | BENCHMARK | DETAILED | STATISTICS | QUEUE | QUEUE_AND_RATE
    percentiles = {key for key in results[1] if key.startswith("p") and key.endswith("_ms") and "p99_" not in key}
    assert set(results[1]) == MAIN | BENCHMARK | DETAILED | STATISTICS | QUEUE | QUEUE_AND_RATE | percentiles


def test_lists_have_an_item_a_request_and_say_what_vllms_would(results, everything):
    """Seconds by request; a failure has zeros, no gaps, and its class in `errors`."""
    for stage, result in enumerate(results):
        lists = [result[key] for key in DETAILED]
        assert {len(items) for items in lists} == {result["num_prompts"]}
        good = measured_rows(everything, stage)
        done = [k for k, error in enumerate(result["errors"]) if not error]
        assert len(done) == result["completed"] == len(good)
        for k, told in zip(done, good, strict=True):
            assert result["ttfts"][k] == pytest.approx(reference.ttft(told) / 1e9, abs=1e-9)
            assert result["latencies"][k] == pytest.approx(reference.e2e(told) / 1e9, abs=1e-9)
            assert result["itls"][k] == pytest.approx([gap / 1e9 for gap in reference.gaps(told)], abs=1e-9)
            assert result["start_times"][k] == pytest.approx(told["sent_ns"] / 1e9, abs=1e-6)
            assert result["output_lens"][k] == reference.output_tokens(told)
            assert result["input_lens"][k] == (told.get("prompt_tokens") or 0)
            # As its own timeline plot reckons.
            assert result["ttfts"][k] + sum(result["itls"][k]) == pytest.approx(result["latencies"][k], abs=1e-6)
        for k in set(range(result["num_prompts"])) - set(done):
            assert (result["ttfts"][k], result["latencies"][k], result["itls"][k], result["output_lens"][k]) == (
                0,
                0,
                [],
                0,
            )
            assert result["errors"][k] == "http-503"


def test_figures_are_vllms_arithmetic_on_these_lists(results):
    for result in results:
        done = [k for k, error in enumerate(result["errors"]) if not error]
        ttfts, latencies = (np.array(result[key])[done] * 1e3 for key in ("ttfts", "latencies"))
        gaps = np.concatenate([result["itls"][k] for k in done]) * 1e3
        for name, values in (("ttft", ttfts), ("e2el", latencies), ("itl", gaps)):
            assert result[f"mean_{name}_ms"] == pytest.approx(np.mean(values), rel=1e-6)
            assert result[f"median_{name}_ms"] == pytest.approx(np.median(values), rel=1e-6)
            assert result[f"std_{name}_ms"] == pytest.approx(np.std(values), rel=1e-6)
            for percentile in (50, 90, 95, 99, 99.9):
                key = f"p{percentile:g}_{name}_ms"
                assert result[key] == pytest.approx(np.percentile(values, percentile), rel=1e-6), key
        assert result["total_output_tokens"] == sum(result["output_lens"])
        assert result["total_input_tokens"] == sum(result["input_lens"][k] for k in done)
        assert result["completed"] + result["failed"] == result["num_prompts"]


def test_loads_and_rates_are_those_of_the_stage(run_dir, results):
    told = summary.summarize(run_dir)["stages"]
    closed, opened = results
    assert (closed["request_rate"], closed["max_concurrency"]) == ("inf", 2)
    assert (opened["request_rate"], opened["max_concurrency"], opened["burstiness"]) == (25.0, 64, "inf")
    for result, stage in zip(results, told, strict=True):
        assert result["duration"] == stage["window_s"] == 10.0
        assert result["request_throughput"] == stage["requests_per_s"]
        assert result["output_throughput"] == stage["output_tokens_per_s"]
        assert result["request_goodput"] == stage["goodput_per_s"] is not None
        assert result["failed"] == stage["requests"]["failed"]
        assert result["backend"] == result["endpoint_type"] == "openai-chat"
        assert result["date"] == "20261123-060000"


def test_peaks_are_counted_as_vllm_counts_them(results, everything):
    result, good = results[0], measured_rows(everything, 0)
    changes = sorted([(r["sent_ns"], 1) for r in good] + [(r["event_ns"][-1], -1) for r in good])
    assert result["max_concurrent_requests"] == max(np.cumsum([change for _, change in changes]))
    by_second = np.bincount([(t - START_NS) // 10**9 for r in good for t in r["event_ns"]])
    assert result["max_output_tokens_per_s"] == by_second.max()


@pytest.mark.parametrize(("arrivals", "wanted"), [("poisson", 1.0), ("gamma:2", 0.25), ("constant", "inf")])
def test_burstiness_is_vllms_shape_of_the_gaps(arrivals, wanted):
    assert vllm._burstiness(arrivals) == wanted


def test_a_stage_of_nothing_has_all_keys_and_zeros(tmp_path):
    run_dir = write_run(tmp_path / "run", [row(START_NS - 1, error="empty")])
    (path,) = vllm.write(run_dir, tmp_path / "out", 0)
    result = json.loads(path.read_text())
    assert set(result) >= MAIN | BENCHMARK | DETAILED | STATISTICS
    assert (result["num_prompts"], result["completed"], result["mean_ttft_ms"], result["itls"]) == (0, 0, 0.0, [])


def test_a_name_that_looks_like_the_list_that_is_written_apart_harms_nothing(tmp_path):
    plan = stage_plan(name='x", "itls": null')
    run_dir = write_run(tmp_path / "run", [row(START_NS, [START_NS + 5, START_NS + 9])], [plan])
    (path,) = vllm.write(run_dir, tmp_path / "out", 0)
    result = json.loads(path.read_text())
    assert result["label"] == plan["name"]
    assert result["itls"] == [[4e-9]]
