"""`loadgen datasets` as it is typed."""

import json

import pytest
from asked import typed


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 100 * n, "input_length": 500 + n, "output_length": 1 + n % 9, "hash_ids": [1, n]}
        for n in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_trace_is_described_with_its_lengths_its_rate_and_what_its_prompts_share(trace):
    ended = typed("datasets", trace)
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    assert lines[0] == f"{trace}: mooncake (jsonl)"
    assert "200 requests" in lines
    assert "input tokens: mean 600, least 500, p50 599, p90 679, p99 697, most 699" in lines
    assert any(line.startswith("19.9 s, 10.1 arrivals/s on average, 10 in the busiest second") for line in lines)
    assert any("of the input tokens are a prefix that an earlier request had, too" in line for line in lines)
    drawn = [line for line in lines if "█" in line]
    assert len(drawn) > 20
    assert max(map(len, lines)) <= 125


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (1, ("1 conversation, 2 requests", "1 session of 2.0 turns on average, 2 at most")),
        (3, ("3 conversations, 6 requests", "3 sessions of 2.0 turns on average, 2 at most")),
    ],
)
def test_conversations_are_counted_with_their_requests(times, words, tmp_path):
    said = [{"from": who, "value": "word"} for who in ("human", "gpt", "human", "gpt")]
    path = tmp_path / "said.json"
    path.write_text(json.dumps([{"id": str(number), "conversations": said} for number in range(times)]))
    assert set(words) <= set(typed("datasets", path).stdout.splitlines())


def test_the_numbers_are_there_as_json(trace):
    told = json.loads(typed("datasets", trace, "--json").stdout)
    assert (told["format"], told["units"], told["bad_lines"]) == ("mooncake", 200, 0)
    assert told["input_tokens"]["mean"] == 599.5
    assert told["rate_per_s"] == pytest.approx(200 / 19.9)


def test_a_bad_line_ends_it_with_its_number_or_is_counted(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "\x1b[31m", "output_tokens": "x\\u001b[2J"}\n{"prompt": "b"}\n')
    ended = typed("datasets", path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith(f"loadgen: {path}: line 2: ")
    ended = typed("datasets", path, "--skip-bad-lines")
    assert ended.returncode == 0, ended
    assert "1 lines that cannot be used:" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert "2 requests" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl cannot be read (No such file or directory)"),
        (["TRACE:MoonCake"], ": 'MoonCake' is no format; allowed is sharegpt, messages"),
        (["TRACE:burstgpt", "--format", "mooncake"], "burstgpt has a column Timestamp, and there is none"),
        (["TRACE", "--format", "parquet"], "--format: 'parquet' is not known; allowed is sharegpt"),
        (["TRACE", "--columns", "frage=x"], "--columns: 'frage' is no field; allowed are prompt"),
        (["TRACE", "--columns", "prompt"], "--columns: 'prompt' names no column"),
        (["TRACE", "--columns", "prompt=x"], "line 1: there is no column 'x'"),
        (["TRACE", "--tokenizer", "none"], "--tokenizer: 'none' is no file here"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(trace, arguments, words):
    ended = typed("datasets", *(one.replace("TRACE", str(trace)) for one in arguments))
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
