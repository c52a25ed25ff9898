import json

from loadgen.workload.formats import reading
from loadgen.workload.survey import Lengths, survey


def surveyed(tmp_path, rows, **options):
    path = tmp_path / "f"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return survey(reading(str(path), None, {}), **options)


def test_lengths_are_told_by_nearest_rank():
    lengths = Lengths()
    lengths.counts.update(range(1, 101))
    assert (lengths.total, lengths.mean) == (100, 50.5)
    assert [lengths.percentile(p) for p in (0, 50, 90, 100)] == [1, 50, 90, 100]
    assert Lengths().percentile(50) is None


def test_a_trace_is_counted_over_time_with_what_its_prompts_share(tmp_path):
    rows = [
        {"timestamp": 0, "input_length": 1024, "output_length": 4, "hash_ids": [1, 2]},
        {"timestamp": 500, "input_length": 1000, "output_length": 6, "hash_ids": [1, 3]},
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [9, 2]},
    ]
    told = surveyed(tmp_path, rows).to_json()
    assert (told["units"], told["requests"], told["length_s"]) == (3, 3, 3.0)
    assert told["rates_per_s"] == [2.0, 0.0, 0.0, 1.0]
    assert told["shared_prefix_share"] == round(512 / 2624, 6), "a block behind another one is no shared prefix"
    assert (told["output_tokens"]["mean"], told["input_tokens"]["p100"]) == (5.0, 1024)


def test_a_conversation_is_counted_with_what_it_quotes(tmp_path, tokenizer_file):
    from loadgen.tokens import load

    talk = [
        {"from": "human", "value": "the game"},
        {"from": "gpt", "value": "the name of"},
        {"from": "human", "value": "that"},
    ]
    tokenizer = load(str(tokenizer_file))
    told = surveyed(tmp_path, [{"conversations": talk}], tokenizer=tokenizer)
    first, answer, second = (tokenizer.count(one["value"]) for one in talk)
    assert sorted(told.input_tokens.counts) == sorted({first, first + answer + second})
    assert told.output_tokens.counts == {answer: 1}
    assert told.turns.counts == {2: 1}


def test_bad_lines_are_counted_and_the_first_of_them_named(tmp_path):
    told = surveyed(tmp_path, [{"prompt": "a"}, *[{"prompt": n} for n in range(30)]])
    assert (told.units, told.bad_lines, len(told.problems)) == (1, 30, 20)
    assert "line 2: prompt is 0" in told.problems[0]
