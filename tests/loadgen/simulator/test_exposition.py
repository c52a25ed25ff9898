"""/metrics: the engine's true state, in the words of vLLM and SGLang."""

import json
import re
from array import array

import pytest
from asked import until

from loadgen.simulator.engine import Engine, EngineParameters, Sequence
from loadgen.simulator.exposition import Ended, Tally, exposition
from loadgen.simulator.process import serve

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "a b c"}], "stream": True}


def samples(text: bytes) -> dict[str, float]:
    """Sample by name and the labels that tell apart; as a scraper would read it."""
    found = {}
    for line in text.decode().splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \S+ .+|TYPE \S+ (gauge|counter|histogram))", line), line
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(\{(?:\w+="[^"]*",?)*\})? (\S+)', line)
        assert match, line
        apart = re.search(r'(le|finished_reason)="[^"]*"', match[2] or "")
        found[match[1] + (f" {apart[0]}" if apart else "")] = float(match[3])
    return found


def test_gauges_and_counters_are_the_state_at_the_moment_of_the_scrape(connect):
    options = ("--max-running", "2", "--step", "20ms", "--kv-cache-tokens", "1000", "--prefix-cache", "10000")
    with serve(*options) as served:
        scraper = connect(served)

        def scrape() -> dict[str, float]:
            return samples(scraper.request("GET", "/metrics").body)

        clients = [connect(served) for _ in range(3)]
        for client in clients:
            body = json.dumps(CHAT | {"max_tokens": 10_000})
            client.connection.request("POST", "/v1/chat/completions", body)
        after = until(lambda: (got := scrape())["vllm:generation_tokens_total"] > 10 and got, "tokens")
        assert (after["vllm:num_requests_running"], after["vllm:num_requests_waiting"]) == (2, 1)
        # Two prompts of three tokens, and what was generated.
        assert after["vllm:kv_cache_usage_perc"] == min((6 + after["vllm:generation_tokens_total"]) / 1000, 1)
        assert after["vllm:prompt_tokens_total"] == 6
        assert after["vllm:prefix_cache_queries_total"] == 6
        assert after["vllm:time_to_first_token_seconds_count"] == 2
        assert after["vllm:e2e_request_latency_seconds_count"] == 0
        for client in clients:
            client.close()
        ended = until(lambda: (got := scrape())["vllm:num_requests_running"] == 0 and got, "the end")
        assert ended['vllm:request_success_total finished_reason="abort"'] >= 2
        assert ended["vllm:generation_tokens_total"] >= after["vllm:generation_tokens_total"]


def test_histograms_agree_with_the_log(connect):
    with serve("--step", "3ms", "--ttft", "30ms") as served:
        client = connect(served)
        for tokens in (4, 8, 1):
            client.chat(max_tokens=tokens)
        got = samples(client.request("GET", "/metrics").body)
        served.stop()
        rows = served.truth().to_pylist()
    firsts_s = [(row["first_token_ns"] - row["request_read_ns"]) / 1e9 for row in rows]
    assert got["vllm:time_to_first_token_seconds_count"] == 3
    # Looked at just before the first token is sent.
    assert 3 * 0.03 <= got["vllm:time_to_first_token_seconds_sum"] <= sum(firsts_s)
    assert got['vllm:time_to_first_token_seconds_bucket le="0.02"'] == 0
    assert got['vllm:time_to_first_token_seconds_bucket le="+Inf"'] == 3
    gaps_s = [(b - a) / 1e9 for row in rows for a, b in zip(row["token_ns"], row["token_ns"][1:], strict=False)]
    assert got["vllm:inter_token_latency_seconds_count"] == len(gaps_s) == 10
    assert got["vllm:inter_token_latency_seconds_sum"] == pytest.approx(sum(gaps_s))
    assert got["vllm:request_time_per_output_token_seconds_count"] == 2
    assert got["vllm:generation_tokens_total"] == 13
    assert got['vllm:request_success_total finished_reason="length"'] == 3


def test_sglang_has_names_of_its_own(connect):
    with serve("--metrics", "sglang", "--step", "1ms") as served:
        client = connect(served)
        client.chat(max_tokens=5)
        got = samples(client.request("GET", "/metrics").body)
    assert got["sglang:num_running_reqs"] == got["sglang:num_queue_reqs"] == 0
    assert (got["sglang:generation_tokens_total"], got["sglang:num_requests_total"]) == (5, 1)
    assert not any(name.startswith("vllm") for name in got)


def test_speculation_is_counted():
    tally = Tally()
    tally.ended(Ended(0, 10, array("q", [20, 30, 40]), 9, "stop"))
    engine: Engine[Sequence] = Engine(EngineParameters(tokens_per_event=4), 0)
    got = samples(exposition("vllm", 'a "model"', tally, engine, [], 1000).replace(b'\\"', b"'"))
    assert got["vllm:spec_decode_num_drafts_total"] == 3
    assert got["vllm:spec_decode_num_draft_tokens_total"] == 9
    assert got["vllm:spec_decode_num_accepted_tokens_total"] == 6


def test_a_bucket_holds_what_is_not_above_its_bound():
    tally = Tally()
    for wait_ns in (1_000_000, 1_000_001, 10_000_000_000_000):
        tally.begun(1, wait_ns)
    assert tally.first_token.counts[0] == 1
    assert tally.first_token.counts[1] == 1
    assert tally.first_token.counts[-1] == 1
