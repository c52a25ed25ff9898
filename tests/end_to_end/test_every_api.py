"""The installed command against the simulated endpoint in each API's own words, and the truth beside it."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import PATIENCE_S, environment, installed, rows, typed
from canned import GOOD, canned, response

from loadgen.simulator.process import Served, serve

KEY = "sk-0123456789-secret"
REQUESTS, TOKENS = 8, 6


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("--step", "1ms", "--reasoning-tokens", "2") as simulator:
        yield simulator


def run(
    url: str, run_dir: Path, *arguments: object, page: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """(rows of the capture, summary, what was said) of a small run."""
    ended = typed(
        *("run", "--url", url, "--out", run_dir, "--workers", 1, "--concurrency", 2, "--input-tokens", 20),
        *("--output-tokens", TOKENS, *arguments, *([] if page else ["--no-html"])),
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return rows(run_dir), json.loads((run_dir / "summary.json").read_bytes()), ended.stdout + ended.stderr


CONTENT, REASONING = 0, 1
THINKS = [REASONING] * 2 + [CONTENT] * (TOKENS - 2)

# What a request's events carry; None: text alone.
APIS: dict[str, list[int] | None] = {
    "chat": THINKS, "completions": None, "responses": THINKS, "messages": THINKS, "databricks": THINKS, "sglang": None,
    "tgi": None, "triton": None, "ollama": THINKS, "llamacpp": None, "gemini": THINKS,
}  # fmt: skip
# How each API is asked to show what it thinks.
THINKING = ("--body-field", "thinking.type=enabled", "--body-field", "thinking.budget_tokens=1024")
OPTIONS = {
    "messages": THINKING,
    "databricks": THINKING,
    "ollama": ("--body-field", "think=true"),
    "responses": ("--body-field", "reasoning.effort=low"),
    "gemini": ("--body-field", "generationConfig.thinkingConfig.includeThoughts=true"),
}
COUNTS_EACH_EVENT = {"sglang", "llamacpp", "gemini"}


@pytest.mark.parametrize("api", APIS)
def test_every_token_of_every_api_is_accounted_for(api, served, tmp_path):
    told, summary, _ = run(
        *(served.url.removesuffix("/v1"), tmp_path / "run", "--api", api, "--model", "sim"),
        *("--requests", REQUESTS, *OPTIONS.get(api, ())),
    )
    assert len(told) == REQUESTS
    assert {row["error"] for row in told} == {None}
    kinds = APIS[api]
    assert Counter(len(row["event_ns"]) for row in told) == {TOKENS: REQUESTS}
    assert [row["event_kind"] for row in told] == [kinds] * REQUESTS
    if api != "triton":
        assert {row["output_tokens"] for row in told} == {TOKENS}
    if api in COUNTS_EACH_EVENT:
        assert {tuple(row["event_tokens"]) for row in told} == {(1,) * TOKENS}
    assert summary["spec"]["api"] == api
    assert summary["stages"][0]["token_source"] == ("events" if api == "triton" else "usage")


def test_embeddings_are_counted_by_their_inputs(served, tmp_path):
    told, summary, shown = run(
        served.url, tmp_path / "run", "--api", "embeddings", "--inputs", 4, "--requests", REQUESTS, page=True
    )
    assert {(row["error"], len(row["event_ns"]), row["output_tokens"]) for row in told} == {(None, 1, 0)}
    (stage,) = summary["stages"]
    assert stage["inputs_per_s"] == pytest.approx(4 * stage["requests_per_s"], rel=1e-6)
    assert stage["output_tokens_per_s"] == 0
    assert stage["ttft_ms"]["p50"] == stage["e2e_ms"]["p50"]
    assert "inputs" in shown


@pytest.mark.parametrize("api", ["sglang", "gemini", "ollama-generate", "responses"])
def test_a_later_turn_quotes_what_was_answered(api, served, tmp_path):
    """Also where each event repeats all of the text before it."""
    told, _, _ = run(served.url.removesuffix("/v1"), tmp_path / "run", "--api", api, "--turns", 3, "--sessions", 2)
    prompts = {(row["turn"], row["prompt_tokens"]) for row in told}
    by_turn = [next(tokens for turn, tokens in prompts if turn == wanted) for wanted in range(3)]
    assert len(prompts) == 3
    first, second, third = by_turn
    assert first == 20
    # What is quoted holds no reasoning, and a last word may be glued to the next turn's first one.
    assert second - first == third - second
    assert TOKENS - 2 + 20 - 1 <= second - first <= TOKENS + 20


def test_events_of_several_tokens_are_counted_by_continuous_usage(tmp_path):
    with serve("--step", "6ms", "--tokens-per-event", "3") as speculating:
        told, summary, _ = run(
            speculating.url, tmp_path / "run", "--usage", "continuous", "--requests", REQUESTS, "--output-tokens", 9
        )
    assert {(tuple(row["event_tokens"]), row["output_tokens"]) for row in told} == {((3, 3, 3), 9)}
    (stage,) = summary["stages"]
    assert stage["token_source"] == "usage"
    for row in told:  # three tokens a step: the first event's are not what the others took their time for
        gaps_ns = row["event_ns"][-1] - row["event_ns"][0]
        assert stage["tpot_ms"]["min"] <= gaps_ns / (9 - 3) / 1e6 + 1e-3
    assert stage["itl_ms"]["count"] == 2 * REQUESTS, "a gap is a gap, however many tokens came behind it"


def test_the_url_alone_says_which_api_it_is(served, tmp_path):
    base = served.url.removesuffix("/v1")
    told, summary, _ = run(f"{base}/v2/models/sim/generate_stream", tmp_path / "run", "--requests", 2)
    assert (summary["spec"]["api"], summary["spec"]["model"], len(told)) == ("triton", "sim", 2)


def test_images_tools_and_the_users_own_fields_arrive(tmp_path):
    (tmp_path / "tools.json").write_text('[{"type": "function", "function": {"name": "look_up"}}]')
    with canned(response(GOOD)) as server:
        run(
            *(server.url, tmp_path / "run", "--model", "m", "--requests", 2, "--image", "2@16x16"),
            *("--tools", tmp_path / "tools.json", "--body-field", "top_p=0.5", "--extra-body", '{"temperature": null}'),
            *("--header", "X-Trace: 7", "--max-tokens-field", "max_completion_tokens"),
        )
        requests = list(server.requests)
    assert len(requests) == 3, "the check asks as the load does"
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        asked = json.loads(body)
        assert b"\r\nX-Trace: 7" in head
        assert [part["type"] for part in asked["messages"][0]["content"]] == ["text", "image_url", "image_url"]
        assert asked["tools"][0]["function"]["name"] == "look_up"
        assert (asked["top_p"], "temperature" in asked, "max_tokens" in asked) == (0.5, False, False)
        assert asked["max_completion_tokens"] > 0


def test_a_template_is_the_whole_body(tmp_path):
    (tmp_path / "body.json").write_text('{"q": "{prompt}", "n": "{output_tokens}"}')
    with canned(response(GOOD)) as server:
        run(server.url, tmp_path / "run", "--model", "m", "--requests", 2, "--body-template", tmp_path / "body.json")
        asked = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    assert [one.keys() for one in asked] == [{"q", "n"}] * 3
    assert [one["n"] for one in asked[1:]] == [TOKENS] * 2
    assert len(asked[1]["q"].split()) == 20
    told = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert told["spec"]["body_template"] == {"q": "{prompt}", "n": "{output_tokens}"}, (
        "so that the run can be made again"
    )


def test_an_endpoint_that_takes_no_stream_options_is_loaded_without(tmp_path):
    def picky(request: bytes) -> bytes:
        if b"stream_options" in request:
            return response(b'{"message":"unknown field"}', "application/json", "400 Bad Request")
        return response(GOOD)

    with canned(picky) as server:
        told, summary, shown = run(server.url, tmp_path / "run", "--model", "m", "--requests", 3)
    assert {row["error"] for row in told} == {None}
    assert "refuses stream_options" in shown
    assert summary["spec"]["usage"] == "none"
    assert summary["stages"][0]["token_source"] == "events"


def test_keys_and_secret_headers_reach_the_endpoint_and_no_file(tmp_path):
    with canned(response(GOOD)) as server:
        command = [
            *installed(), "run", "--url", server.url, "--model", "m", "--requests", "2", "--workers", "1",
            "--api-key-file", "-", "--header-env", "X-Gateway=GATEWAY", "--out", str(tmp_path / "run"),
        ]  # fmt: skip
        ended = subprocess.run(
            command, input=f"{KEY}\n", env=environment(GATEWAY="hush-hush-77"), capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        requests = list(server.requests)
    assert ended.returncode == 0, ended.stderr
    assert all(f"Authorization: Bearer {KEY}".encode() in request for request in requests)
    assert all(b"X-Gateway: hush-hush-77" in request for request in requests)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data, path
            assert b"hush-hush" not in data, path
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["spec"]["header_env"] == [["X-Gateway", "GATEWAY"]]
