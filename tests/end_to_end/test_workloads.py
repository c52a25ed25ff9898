"""Data sets, traces and tokenizers with the installed command: what the file says against what the capture holds."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import asked
import pytest
from asked import PATIENCE_S, installed, typed, until
from canned import canned, response

from loadgen.simulator.process import serve
from loadgen.tokens import load

QUICK = ("--model", "sim", "--no-check", "--no-html", "--warmup", "0")


@pytest.fixture(scope="module")
def served():
    with serve("--step", "2ms") as simulator:
        yield simulator


def run(url: str, run_dir: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    """Run to the end; the summary's first stage."""
    ended = typed("run", "--url", url, *QUICK, *arguments, "--out", run_dir)
    assert ended.returncode == status, ended
    stage: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())["stages"][0]
    return stage


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Every row, in the order of the ids."""
    return sorted(asked.rows(run_dir), key=lambda row: row["request_id"])


def offsets_ms(run_dir: Path) -> list[int]:
    """When each request was due, since the first, in the order of the ids."""
    due_ns = [row["intended_ns"] for row in rows(run_dir)]
    return [round((one - due_ns[0]) / 1e6) for one in due_ns]


@pytest.fixture
def trace(tmp_path):
    """Mooncake's form: 60 requests in a second and a half."""
    made = [
        {
            "timestamp": 25 * n,
            "input_length": 520 + 7 * n,
            "output_length": 1 + n % 5,
            "hash_ids": [n % 3, 100 + n],
        }
        for n in range(60)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path, made


def test_a_trace_is_played_as_it_was_whatever_the_number_of_workers_and_can_be_replayed(served, tmp_path, trace):
    path, made = trace
    seen = {}
    for workers in (1, 3):
        cpus = ("--workers", workers, "--cpus", ",".join(["0"] * workers))
        stage = run(served.url, tmp_path / str(workers), "--trace", path, "--seed", 4, *cpus)
        assert stage["requests"]["offered"] == stage["requests"]["completed"] == 60
        assert stage["lengths"]["input_tokens"]["exact_share"] == stage["lengths"]["output_tokens"]["exact_share"] == 1
        assert offsets_ms(tmp_path / str(workers)) == [row["timestamp"] for row in made]
        seen[workers] = [
            (
                row["request_id"],
                row["wanted_input_tokens"],
                row["prompt_tokens"],
                row["output_tokens"],
                row["request_bytes"],
            )
            for row in rows(tmp_path / str(workers))
        ]
        assert {row["worker"] for row in rows(tmp_path / str(workers))} == set(range(workers))
    assert seen[1] == seen[3]
    assert [one[1] for one in seen[1]] == [row["input_length"] for row in made]
    assert [one[3] for one in seen[1]] == [row["output_length"] for row in made]

    run(served.url, tmp_path / "again", "--replay", tmp_path / "3")
    replayed = rows(tmp_path / "again")
    assert offsets_ms(tmp_path / "again") == offsets_ms(tmp_path / "3")
    assert [(row["prompt_tokens"], row["output_tokens"]) for row in replayed] == [(one[2], one[3]) for one in seen[3]]


def test_the_plan_of_a_trace_is_what_is_then_sent_and_a_run_can_be_repeated(served, tmp_path, trace):
    path, _ = trace
    part = ("--trace", path, "--from", "250ms", "--to", "1s", "--time-scale", "0.5", "--sample", "60%", "--seed", "3")
    told = json.loads(typed("plan", "--url", served.url, "--model", "sim", *part, "--json").stdout)["stages"][0]
    stage = run(served.url, tmp_path / "a", *part)
    assert told["arrivals"] == stage["requests"]["sent"] == len(rows(tmp_path / "a"))
    assert 10 <= told["arrivals"] < 30
    assert told["input_tokens"] == sum(row["prompt_tokens"] for row in rows(tmp_path / "a"))
    assert stage["window_s"] == pytest.approx(0.375, abs=1e-6)
    ended = typed("run", "--spec", tmp_path / "a", "--no-html", "--out", tmp_path / "b")
    assert ended.returncode == 0, ended
    first, second = (
        [(row["request_id"], row["wanted_input_tokens"], row["request_bytes"]) for row in rows(tmp_path / name)]
        for name in "ab"
    )
    assert first == second


def test_conversations_are_sessions_that_quote_what_was_said(served, tmp_path):
    talks = [
        [
            message
            for turn in range(1 + n % 3)
            for message in (
                {"from": "human", "value": f"question {n} {turn} " + "word " * n},
                {"from": "gpt", "value": "recorded answer " * 3},
            )
        ]
        for n in range(9)
    ]
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([{"id": str(n), "conversations": talk} for n, talk in enumerate(talks)]))
    load_ = ("--dataset", path, "--concurrency", 3, "--sessions", 9, "--output-tokens", 4)
    assert run(served.url, tmp_path / "real", *load_)["by_turn"]
    run(served.url, tmp_path / "recorded", *load_, "--history", "recorded")
    for name, answer_words in (("real", 4), ("recorded", 6)):
        sessions: dict[int, list[dict[str, Any]]] = {}
        for row in rows(tmp_path / name):
            sessions.setdefault(row["session_id"], []).append(row)
        assert len(sessions) == 9
        for number, talk in sessions.items():
            said = 3 + number
            assert [row["turn"] for row in talk] == list(range(1 + number % 3))
            expected = [(turn + 1) * said + turn * answer_words for turn in range(len(talk))]
            # The simulator's words are a token each, its answers too.
            assert [row["prompt_tokens"] for row in talk] == expected, (name, number)


@pytest.mark.parametrize("api", ["messages", "gemini", "tgi"])
def test_conversations_are_told_in_the_words_of_other_apis(served, tmp_path, api):
    talk = [{"from": who, "value": f"{who} says word {n}"} for n in range(3) for who in ("human", "gpt")]
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([{"conversations": talk}] * 2))
    run(
        *(served.url.removesuffix("/v1"), tmp_path / "r", "--api", api, "--dataset", path, "--concurrency", 1),
        *("--sessions", 2, "--history", "recorded", "--output-tokens", 3),
    )
    told = rows(tmp_path / "r")
    assert [(row["error"], row["turn"], row["output_tokens"]) for row in told] == [(None, n % 3, 3) for n in range(6)]
    if told[0]["prompt_tokens"] is not None:
        first, second, third = (row["prompt_tokens"] for row in told[:3])
        assert second - first == third - second >= 8, "each turn quotes the one before it, and its answer"


def test_a_data_set_is_asked_once_where_that_is_wanted(served, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"say {n}", "output_tokens": 1 + n}) + "\n" for n in range(11)))
    run(served.url, tmp_path / "once", "--dataset", path, "--concurrency", 4, "--duration", "20s", "--once")
    assert [row["output_tokens"] for row in rows(tmp_path / "once")] == list(range(1, 12))
    run(served.url, tmp_path / "more", "--dataset", path, "--concurrency", 4, "--requests", 25)
    again = rows(tmp_path / "more")
    assert [row["output_tokens"] for row in again] == [1 + n % 11 for n in range(25)]
    assert [row["prompt_tokens"] for row in again] == [2] * 11 + [9] * 14, "a nonce from the second pass on"


def test_a_bad_line_far_into_the_file_ends_the_run_with_its_number_and_what_was_measured_stays(served, tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"say {n}", "output_tokens": 1}) for n in range(400)]
    lines[299] = '{"prompt": '
    path.write_text("\n".join(lines))
    ended = typed(
        "run",
        "--url",
        served.url,
        *QUICK,
        "--dataset",
        path,
        "--concurrency",
        1,
        "--requests",
        400,
        "--out",
        tmp_path / "r",
    )
    assert ended.returncode == 1, ended
    assert f"loadgen: {path}: line 300: this is no JSON" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = typed(
        *("run", "--url", served.url, *QUICK, "--dataset", path, "--concurrency", 4, "--requests", 500),
        *("--skip-bad-lines", "--out", tmp_path / "s"),
    )
    assert ended.returncode == 0, ended
    assert "passed over, for they cannot be used: 1 of the lines read\n" in ended.stderr
    assert json.loads((tmp_path / "s" / "run.json").read_bytes())["skipped_lines"] == 1
    assert [row["error"] for row in rows(tmp_path / "s")] == [None] * 500


def test_a_preparer_that_is_killed_ends_the_run_and_is_named(served, tmp_path):
    command = [*installed(), "run", "--url", served.url, *QUICK, "--input-tokens", "uniform:5..9", "--concurrency", "2"]
    command += ["--duration", "60s", "--out", str(tmp_path / "r")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=asked.environment())
    try:
        until(lambda: list(asked.rows(tmp_path / "r")), "the run to be under way")
        (preparer,) = [
            pid for pid in children(running.pid) if b"loadgen.preparer" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(preparer, signal.SIGKILL)
        _, said = running.communicate(timeout=PATIENCE_S)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1
    assert said.decode() == "loadgen: the preparer of requests ended in mid-run (killed by signal 9)\n"


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def endpoint(*, adds: int = 0, usage: bool = True) -> Any:
    """An endpoint whose chat template adds so many tokens, or which counts none."""

    def answer(request: bytes) -> bytes:
        body = json.loads(request.partition(b"\r\n\r\n")[2])
        words = sum(len(message["content"].split()) for message in body["messages"])
        said = [f"word{n} the name of " for n in range(min(body["max_tokens"], 5))]
        chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]} for text in said]
        chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage:
            chunks.append({"choices": [], "usage": {"prompt_tokens": words + adds, "completion_tokens": len(said)}})
        stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        return response(stream + b"data: [DONE]\n\n")

    return canned(answer)


@pytest.mark.parametrize("lengths", ["30", "uniform:20..40"])
def test_calibrated_prompts_are_shorter_by_what_the_server_adds(tmp_path, lengths):
    with endpoint(adds=11) as server:
        ended = typed(
            "run", "--url", server.url, "--model", "m", "--calibrate-prompts", "--input-tokens", lengths,
            "--requests", 9, "--concurrency", 1, "--no-html", "--out", tmp_path / "r",
        )  # fmt: skip
    assert ended.returncode == 0, ended
    assert "calibrated: the endpoint adds 11 tokens to a prompt\n" in ended.stderr
    assert all(row["prompt_tokens"] == row["wanted_input_tokens"] for row in rows(tmp_path / "r"))
    facts = json.loads((tmp_path / "r" / "run.json").read_bytes())
    assert facts["calibration"] == {"overhead_tokens": 11, "tokens_per_word": 1.0}


def test_an_endpoint_without_usage_cannot_be_calibrated_by(tmp_path):
    with endpoint(usage=False) as server:
        ended = typed("run", "--url", server.url, "--model", "m", "--calibrate-prompts", "--out", tmp_path / "r")
    assert ended.returncode == 1
    assert "--calibrate-prompts: " in ended.stderr
    assert "does not say how many tokens a prompt has" in ended.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("usage", [False, True])
def test_output_is_counted_by_the_tokenizer_where_the_server_does_not(tmp_path, tokenizer_file, usage):
    with endpoint(usage=usage) as server:
        stage = run(
            server.url, tmp_path / "r", "--tokenizer", tokenizer_file, "--requests", 12, "--concurrency", 2,
            "--input-tokens", 20, "--output-tokens", 3,
        )  # fmt: skip
    assert stage["token_source"] == ("usage" if usage else "tokenizer")
    text = "".join(f"word{n} the name of " for n in range(3))
    counted = None if usage else load(str(tokenizer_file)).count(text)
    assert {row["counted_tokens"] for row in rows(tmp_path / "r")} == {counted}
    assert [row["error"] for row in rows(tmp_path / "r")] == [None] * 12
    tokens = 12 * (3 if usage else load(str(tokenizer_file)).count(text))
    # All but what came in the drain.
    assert stage["output_tokens_per_s"] * stage["window_s"] <= tokens + 1e-6


DOCS = Path(__file__).parents[2] / "docs" / "workloads.md"


EXAMPLES = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: re.search(r"\S+\.(?:\w+)", example)[0])
def test_the_examples_of_the_documentation_run(served, tmp_path, example):
    for name, content in re.findall(r"```\w+ file=(\S+)\n(.*?)```", DOCS.read_text(), re.DOTALL):
        (tmp_path / name).write_text(content)
    for number, line in enumerate(example.splitlines()):
        words = line.replace("$URL", served.url).split()
        assert words[0] == "loadgen"
        if words[1] == "run":
            words += ["--no-html", *([] if "--out" in words else ["--out", f"run-{number}"])]
        ended = subprocess.run(
            [*installed(), *words[1:]],
            cwd=tmp_path,
            env=asked.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert ended.returncode == 0, (line, ended)
        if words[1] == "run":
            stage = json.loads((tmp_path / words[words.index("--out") + 1] / "summary.json").read_bytes())["stages"][0]
            assert stage["requests"]["completed"] > 0, line
            assert not stage["requests"]["failed"], line


def test_every_kind_of_file_has_an_example_that_runs():
    assert len(EXAMPLES) >= 10
    assert set(re.findall(r"--(dataset|trace|replay)", "".join(EXAMPLES))) == {"dataset", "trace", "replay"}
