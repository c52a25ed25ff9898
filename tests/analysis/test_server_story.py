import json

import pytest
from scraped import labels, write_scrapes
from synthetic import MS, START_NS, S, stage_plan, steady_rows, write_run

from analysis.notes import server_notes
from analysis.scrapes import read_scrapes
from analysis.server import bucket_of
from analysis.signals import ALL_NAMES
from analysis.summary import summarize
from analysis.tables import server_table
from loadgen.scrape.presets import PRESETS, WANTED

ENGINE = labels(engine="0", model_name="m")


def vllm(second, *, running=4.0, ttft_s=0.05, base=0.0):
    """A page of a server that ends 10 requests of 20 tokens a second."""
    ended = base + 10.0 * second
    ttft = "vllm:time_to_first_token_seconds"
    return [
        ("vllm:num_requests_running", ENGINE, running),
        ("vllm:num_requests_waiting", ENGINE, 1.0),
        ("vllm:kv_cache_usage_perc", ENGINE, 0.1 + 0.01 * second),
        ("vllm:num_preemptions_total", ENGINE, float(second // 2)),
        ("vllm:prefix_cache_queries_total", ENGINE, 100.0 * second),
        ("vllm:prefix_cache_hits_total", ENGINE, 25.0 * second),
        ("vllm:generation_tokens_total", ENGINE, 20 * ended),
        (f"{ttft}_count", ENGINE, ended),
        (f"{ttft}_sum", ENGINE, ended * ttft_s),
        (f"{ttft}_bucket", (*ENGINE[:1], ("le", "0.04"), *ENGINE[1:]), 0.2 * ended),
        (f"{ttft}_bucket", (*ENGINE[:1], ("le", "0.06"), *ENGINE[1:]), 0.8 * ended),
        (f"{ttft}_bucket", (*ENGINE[:1], ("le", "+Inf"), *ENGINE[1:]), ended),
        ("process_start_time_seconds", (), 1000.0 if not base else 2000.0),
    ]


def told(tmp_path, pages, **plan):
    """The summary of a run of 10 s with these pages beside it."""
    run_dir = write_run(tmp_path / "run", steady_rows(), [stage_plan(**plan)])
    write_scrapes(run_dir, pages)
    return summarize(run_dir)


def every_second(page=vllm, source=0, seconds=range(-1, 12)):
    return [(source, START_NS + second * S + 2 * MS, page(second + 1)) for second in seconds]


def test_a_run_without_scrapes_has_none(tmp_path):
    summary = summarize(write_run(tmp_path / "run", steady_rows(), [stage_plan()]))
    assert summary["server"] is None
    assert summary["stages"][0]["server"] is None
    assert server_table(summary["stages"]) is None
    assert server_notes(summary) == []


def test_counters_and_histograms_are_what_came_in_the_window(tmp_path):
    summary = told(tmp_path, every_second())
    stage = summary["stages"][0]
    server = stage["server"]
    assert server["sources"] == [
        {
            "url": "http://h0/metrics",
            "server": "vLLM",
            "scrapes": 11,
            "span_s": 10.0,
            "border_ms": 2.0,
            "restarts": 0,
        }
    ]
    assert server["output_tokens"] == 20 * 100
    assert server["output_tokens_per_s"] == 200
    assert server["preemptions"] == 5
    assert server["prefix_hit_share"] == 0.25
    ttft = server["ttft_ms"]
    assert (ttft["count"], ttft["mean"]) == (100, 50.0)
    assert (ttft["p50_between"], ttft["p99_between"]) == ([40.0, 60.0], [60.0, None])
    assert ttft["client_mean"] == stage["ttft_ms"]["mean"]
    assert ttft["client_minus_server"] == pytest.approx(stage["ttft_ms"]["mean"] - 50.0)
    assert server["e2e_ms"] is None
    assert json.dumps(summary, allow_nan=False)


def test_gauges_are_the_mean_over_time_and_the_largest(tmp_path):
    def page(second):
        return vllm(second, running=8.0 if second >= 6 else 4.0)

    pages = [one for one in every_second(page) if one[1] < START_NS + 9 * S]
    # more scrapes, as at a border, weigh no more
    pages += [(0, START_NS + 8 * S + 2 * MS + extra, page(9)) for extra in range(10, 1000, 10)]
    server = told(tmp_path, sorted(pages, key=lambda one: one[1]))["stages"][0]["server"]
    assert server["running"]["max"] == 8
    assert server["running"]["mean"] == pytest.approx((4 * 4 + 6 + 3 * 8) / 8, rel=1e-3)
    assert server["waiting"] == {"mean": 1.0, "max": 1.0}
    line = server["timeline"][0]["running"]
    assert line["t_s"][:2] == [0.002, 1.002]
    assert line["values"][0] == 4


def test_the_time_line_goes_over_the_whole_stage_with_rates_between_scrapes(tmp_path):
    pages = [*every_second(), (0, START_NS + 4 * S + 5 * MS, vllm(5.001))]  # right behind another, as at a border
    (line,) = told(tmp_path, sorted(pages, key=lambda one: one[1]))["stages"][0]["server"]["timeline"]
    assert line["source"] == "http://h0/metrics"
    # the scrapes on both sides of the stage, which lasts from 0 to 10 s, belong to it
    assert line["running"]["t_s"][0] == -0.998
    assert line["running"]["t_s"][-1] >= 10
    assert len(line["running"]["t_s"]) == len(line["preemptions_per_s"]["t_s"]) + 1
    preemptions = line["preemptions_per_s"]
    assert preemptions["values"][0] is None
    assert preemptions["values"][1:] == [float(second % 2 == 0) for second in range(1, len(preemptions["values"]))]
    assert line["output_tokens_per_s"]["values"][1:] == [200.0] * (len(preemptions["values"]) - 1)
    assert "prompt_tokens_per_s" not in line


def test_of_many_scrapes_the_time_line_keeps_the_peaks_and_the_rates(tmp_path):
    pages = [
        (0, START_NS + 5 * MS * tick, vllm(tick / 200, running=50.0 if tick == 777 else 4.0)) for tick in range(2000)
    ]
    (line,) = told(tmp_path, pages)["stages"][0]["server"]["timeline"]
    assert len(line["running"]["values"]) <= 600
    assert max(line["running"]["values"]) == 50
    assert len(line["output_tokens_per_s"]["values"]) <= 600
    assert set(line["output_tokens_per_s"]["values"][1:]) == {200.0}


def test_a_counter_that_falls_began_anew(tmp_path):
    def page(second):
        return vllm(second) if second < 6 else vllm(second - 6, base=3.0)

    summary = told(tmp_path, every_second(page))
    server = summary["stages"][0]["server"]
    assert server["sources"][0]["restarts"] == 1
    # 10 a second for 4 s up to the last look at the old life, then 3 + 50 in the new one
    assert server["ttft_ms"]["count"] == 40 + 3 + 50
    assert "began to count anew" in server_notes(summary)[0].plain


def test_replicas_add_up_and_ranks_of_one_do_not(tmp_path):
    def page(second):
        return [
            ("sglang:num_running_reqs", labels(tp_rank=tp, dp_rank=dp), value)
            for tp in "01"
            for dp, value in (("0", 3.0), ("1", 5.0))
        ] + [("sglang:token_usage", labels(dp_rank=dp), share) for dp, share in (("0", 0.2), ("1", 0.6))]

    two = [*every_second(page), *every_second(vllm, source=1)]
    server = told(tmp_path, sorted(two, key=lambda one: one[1]))["stages"][0]["server"]
    assert server["running"] == {"mean": 12.0, "max": 12.0}
    assert server["kv_cache_share"]["mean"] == pytest.approx((0.4 + 0.16) / 2, abs=0.01)
    assert [source["server"] for source in server["sources"]] == ["SGLang", "vLLM"]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([("vllm:gpu_cache_usage_perc", ENGINE, 0.3)], {"kv_cache_share": 0.3}),
        ([("tgi_queue_size", (), 2.0), ("tgi_batch_current_size", (), 7.0)], {"waiting": 2.0, "running": 7.0}),
        (
            [
                ("nv_trt_llm_request_metrics", labels(request_type="active"), 4.0),
                ("nv_trt_llm_request_metrics", labels(request_type="waiting"), 1.0),
                ("nv_trt_llm_kv_cache_block_metrics", labels(kv_cache_block_type="fraction"), 0.5),
                ("nv_trt_llm_kv_cache_block_metrics", labels(kv_cache_block_type="used"), 500.0),
                ("nv_gpu_utilization", labels(gpu_uuid="a"), 0.8),
                ("nv_gpu_memory_used_bytes", labels(gpu_uuid="a"), 30.0),
                ("nv_gpu_memory_total_bytes", labels(gpu_uuid="a"), 40.0),
            ],
            {"running": 4.0, "waiting": 1.0, "kv_cache_share": 0.5, "gpu_share": 0.8, "gpu_memory_share": 0.75},
        ),
        ([("llamacpp:requests_processing", (), 1.0), ("llamacpp:requests_deferred", (), 9.0)], {"waiting": 9.0}),
        (
            [
                ("DCGM_FI_DEV_GPU_UTIL", labels(gpu="0"), 90.0),
                ("DCGM_FI_DEV_GPU_UTIL", labels(gpu="1"), 70.0),
                ("DCGM_FI_DEV_POWER_USAGE", labels(gpu="0"), 300.0),
                ("DCGM_FI_DEV_POWER_USAGE", labels(gpu="1"), 200.0),
                ("DCGM_FI_DEV_FB_USED", labels(gpu="0"), 60.0),
                ("DCGM_FI_DEV_FB_FREE", labels(gpu="0"), 20.0),
            ],
            {"gpu_share": 0.8, "gpu_power_w": 500.0, "gpu_memory_share": 0.75},
        ),
        (
            [("gpu_usage_percentage", (), 40.0), ("cpu_usage_percentage", (), 10.0)],
            {"gpu_share": 0.4, "cpu_share": 0.1},
        ),
        ([("trtllm_kv_cache_utilization", (), 0.25)], {"kv_cache_share": 0.25}),
    ],
    ids=["old-vllm", "tgi", "triton", "llamacpp", "dcgm", "databricks", "trtllm"],
)
def test_every_server_tells_the_same_signals_under_its_own_names(samples, expected, tmp_path):
    server = told(tmp_path, every_second(lambda _: samples))["stages"][0]["server"]
    assert {name: pytest.approx(server[name]["mean"]) for name in expected} == expected


def test_energy_is_told_a_token(tmp_path):
    def page(second):
        return [("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", labels(gpu=gpu), 100_000.0 * second) for gpu in "01"]

    stage = told(tmp_path, every_second(page))["stages"][0]
    assert stage["server"]["gpu_energy_j"] == pytest.approx(2 * 100 * 10)
    assert stage["server"]["joules_a_token"] == pytest.approx(200 / stage["output_tokens_per_s"], rel=1e-6)


def test_a_page_that_fails_is_told_with_its_words_and_leaves_the_rest_alone(tmp_path):
    dead = [(1, START_NS + second * S, "cannot connect: connection \x1b[31mrefused") for second in range(10)]
    summary = told(tmp_path, sorted([*every_second(), *dead], key=lambda one: one[1]))
    assert summary["server"][1]["failed"] == summary["server"][1]["scrapes"] == 10
    assert [source["url"] for source in summary["stages"][0]["server"]["sources"]] == ["http://h0/metrics"]
    (note,) = server_notes(summary)
    assert "http://h1/metrics: 10 of 10 scrapes failed" in note.plain
    assert "\x1b" not in note.plain


def test_a_window_that_saw_few_scrapes_is_told_with_their_number(tmp_path):
    for step, words in ((1, []), (5, ["concurrency 2: http://h0/metrics was read 3 times in its window"])):
        summary = told(tmp_path / str(step), every_second(seconds=range(-1, 12, step)))
        assert [note.plain.partition(", and what")[0] for note in server_notes(summary)] == words
        assert all("a shorter --scrape-every" in note.plain for note in server_notes(summary))


def test_scrapes_of_another_time_say_nothing_of_a_stage(tmp_path):
    pages = every_second(seconds=range(100, 110))
    assert told(tmp_path, pages)["stages"][0]["server"] is None


def test_a_file_that_is_cut_is_read_up_to_its_last_whole_batch(tmp_path):
    run_dir = write_run(tmp_path / "run", steady_rows(), [stage_plan()])
    write_scrapes(run_dir, every_second())
    path = run_dir / "capture" / "scrape.arrow"
    whole = path.read_bytes()
    assert len(read_scrapes(run_dir)[1].sources[0].times_ns) == 13
    seen = set()
    for end in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:end])
        found = read_scrapes(run_dir)
        seen.add(len(found[1].sources[0].times_ns) if found else -1)
    assert {-1, 0} & seen
    assert max(seen) >= 11


def test_a_percentile_is_told_by_the_bounds_it_lies_between():
    below = {0.1: 10.0, 0.5: 90.0, 1.0: 100.0, float("inf"): 100.0}
    assert bucket_of(below, 5) == [0.0, 0.1]
    assert bucket_of(below, 50) == [0.1, 0.5]
    assert bucket_of(below, 99) == [0.5, 1.0]
    assert bucket_of({1.0: 1.0, float("inf"): 5.0}, 90) == [1.0, None]
    assert bucket_of({}, 50) is None
    assert bucket_of({1.0: 0.0, float("inf"): 0.0}, 50) is None


def test_what_the_analysis_reads_is_what_the_scraper_keeps():
    kept = {name for names in PRESETS.values() for name in names}
    assert kept >= ALL_NAMES
    assert kept <= WANTED
