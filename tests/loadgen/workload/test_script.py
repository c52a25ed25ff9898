import json
from collections import Counter
from itertools import islice

import pytest
from small_tokenizer import made_tokenizer

from loadgen.distribution import Prefixes, parse_distribution, parse_lengths
from loadgen.errors import UsageError
from loadgen.tokens import load
from loadgen.workload.formats import reading
from loadgen.workload.script import Calibration, Recipe, Script
from loadgen.workload.traces import Course


def recipe(**changes) -> Recipe:
    for name in ("input_tokens", "output_tokens"):
        if isinstance(changes.get(name), str):
            changes[name] = parse_lengths(changes[name])
    fields = {"model": "m", "seed": 1, "ignore_eos": False, "most_turns": 1, "real_history": True}
    if "file" not in changes:
        fields |= {"input_tokens": parse_lengths("20"), "output_tokens": parse_lengths("5")}
    return Recipe(**fields | changes)


def units(count: int, stage: int = 0, **changes):
    return list(islice(Script(recipe(**changes)).units(stage), count))


def asks(count: int, stage: int = 0, **changes):
    return [unit.asked[0].ask for unit in units(count, stage, **changes)]


def file_of(tmp_path, rows, conversations="auto", name="f.jsonl"):
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows))
    return reading(str(path), None, {}, conversations)


# synthetic


def test_a_unit_follows_from_seed_and_number_alone():
    drawn = {"input_tokens": "uniform:5..50", "output_tokens": "exp:20", "prefixes": Prefixes(3, 10)}
    assert units(40, **drawn) == units(40, **drawn)
    assert units(40, **drawn) != units(40, seed=2, **drawn)
    assert units(40, stage=1, **drawn)[0].asked != units(40, **drawn)[0].asked
    script = Script(recipe(**drawn))
    assert [script._synthetic(0, number) for number in (7, 3)] == [units(8, **drawn)[7], units(8, **drawn)[3]]


def test_lengths_are_drawn_as_asked_and_the_prompt_has_them():
    made = units(2000, input_tokens="uniform:10..30", output_tokens="normal:50,10")
    wanted = [unit.asked[0].wanted_input_tokens for unit in made]
    assert wanted == [len(unit.asked[0].ask.prompt.split()) for unit in made]
    assert (min(wanted), max(wanted)) == (10, 30)
    output = [unit.asked[0].ask.output_tokens for unit in made]
    assert 49 < sum(output) / len(output) < 51


def test_a_prompt_is_exact_under_a_tokenizer_and_less_what_the_template_adds(tokenizer_file):
    tokenizer = load(str(tokenizer_file))
    for calibration, less in ((Calibration(), 0), (Calibration(overhead_tokens=11), 11)):
        made = units(100, input_tokens="uniform:5..90", tokenizer=str(tokenizer_file), calibration=calibration)
        for unit in made:
            (asked,) = unit.asked
            assert tokenizer.count(asked.ask.prompt) == max(asked.wanted_input_tokens - less, 1)


def test_words_are_made_fewer_where_the_server_counts_more_of_them():
    (unit,) = units(1, input_tokens="110", calibration=Calibration(overhead_tokens=10, tokens_per_word=2.0))
    assert len(unit.asked[0].ask.prompt.split()) == 50


def test_pairs_from_a_file_are_drawn_together(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("input_tokens,output_tokens\n10,1\n20,2\n30,3\n")
    made = units(300, pairs_file=str(path), input_tokens=None, output_tokens=None)
    pairs = Counter((unit.asked[0].wanted_input_tokens, unit.asked[0].wanted_output_tokens) for unit in made)
    assert set(pairs) == {(10, 1), (20, 2), (30, 3)}
    assert min(pairs.values()) > 60


def test_prefixes_are_shared_by_popularity_and_the_rest_is_unique():
    made = asks(4000, prefixes=Prefixes(5, 30, zipf=1.0))
    shares = Counter(ask.system for ask in made).most_common()
    assert len(shares) == 5
    assert all(len(system.split()) == 30 for system, _ in shares)
    # 1 : 1/2 : 1/3 : 1/4 : 1/5 of 2.283
    expected = [4000 / rank / (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) for rank in range(1, 6)]
    for (_, count), share in zip(shares, expected, strict=True):
        assert abs(count - share) < 4 * share**0.5
    assert len({ask.prompt for ask in made}) == 4000
    assert len({" ".join(ask.prompt.split()[:7]) for ask in made}) == 4000


def test_synthetic_sessions_have_their_turns_and_made_up_answers_where_asked():
    drawn = {"turns": parse_distribution("uniform:1..4", "count"), "most_turns": 4}
    real, recorded = units(50, **drawn), units(50, real_history=False, **drawn)
    assert {len(unit.asked) for unit in real} == {1, 2, 3, 4}
    assert [len(unit.asked) for unit in real] == [len(unit.asked) for unit in recorded]
    assert all(len(asked.quoted.split()) == 5 for unit in recorded if len(unit.asked) > 1 for asked in unit.asked)
    assert all(not asked.quoted for unit in real for asked in unit.asked)
    assert [asked.wanted_input_tokens for unit in real for asked in unit.asked[1:]] == [None] * sum(
        len(unit.asked) - 1 for unit in real
    )


# data sets


PROMPTS = [{"prompt": f"say {n}", "output_tokens": n + 1} for n in range(3)]


def test_a_data_set_is_asked_as_it_is_and_starts_over_with_a_nonce(tmp_path):
    made = asks(7, file=file_of(tmp_path, PROMPTS))
    assert [ask.prompt for ask in made[:3]] == ["say 0", "say 1", "say 2"]
    assert [ask.output_tokens for ask in made] == [1, 2, 3, 1, 2, 3, 1]
    for n, ask in enumerate(made[3:]):
        assert ask.prompt.endswith(f" say {n % 3}")
        assert len(ask.prompt.split()) == 7 + 2
    assert len({ask.prompt for ask in made}) == 7


def test_a_later_stage_begins_again_and_no_cache_knows_it(tmp_path):
    assert all(
        ask.prompt.endswith(f" say {n}") for n, ask in enumerate(asks(3, stage=1, file=file_of(tmp_path, PROMPTS)))
    )


@pytest.mark.parametrize(("nonce", "lengths"), [("always", [9, 9]), ("never", [2, 2]), ("auto", [2, 9])])
def test_a_nonce_is_where_it_is_wanted(tmp_path, nonce, lengths):
    made = asks(4, nonce=nonce, file=file_of(tmp_path, PROMPTS))
    assert [len(made[n].prompt.split()) for n in (0, 3)] == lengths


def test_once_is_once(tmp_path):
    assert len(units(99, once=True, file=file_of(tmp_path, PROMPTS))) == 3


def test_an_answer_is_as_long_as_the_recorded_one_unless_the_user_says_so(tmp_path, tokenizer_file):
    rows = [{"prompt": "a", "answer": "the name of the game " * 5}]
    (by_characters,) = asks(1, file=file_of(tmp_path, rows))
    assert by_characters.output_tokens == -(-len(rows[0]["answer"]) // 4)
    (counted,) = asks(1, file=file_of(tmp_path, rows), tokenizer=str(tokenizer_file))
    assert counted.output_tokens == load(str(tokenizer_file)).count(rows[0]["answer"])
    (asked,) = asks(1, file=file_of(tmp_path, rows), output_tokens="9")
    assert asked.output_tokens == 9
    (unknown,) = asks(1, file=file_of(tmp_path, [{"prompt": "a"}]))
    assert unknown.output_tokens == 128


def test_conversations_are_sessions_with_the_recorded_answers(tmp_path):
    talk = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}, {"from": "human", "value": "Two?"}]
    how = file_of(tmp_path, [{"conversations": talk}], name="f.json")
    (unit,) = units(1, file=how, most_turns=128)
    assert [(asked.ask.prompt, asked.quoted) for asked in unit.asked] == [("One?", "1"), ("Two?", "")]


def test_whole_messages_are_opened_by_the_nonce_whatever_their_first_part_is(tmp_path):
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    first, second = asks(2, nonce="always", file=file_of(tmp_path, [{"messages": plain}, {"messages": parts}]))
    assert first.messages[0]["content"].endswith(" Be brief.")
    assert first.messages[1] == plain[1]
    assert [part["type"] for part in second.messages[0]["content"]] == ["text", "image_url"]


def test_images_of_a_row_become_urls_and_one_that_is_not_there_is_a_bad_line(tmp_path):
    urls = ["http://h/x.png", "data:image/png;base64,"]
    rows = [{"prompt": "a", "images": urls}, {"prompt": "b", "images": ["8x8"]}, {"prompt": "c", "images": None}]
    first, second, third = asks(3, images=("9x9",), file=file_of(tmp_path, rows))
    assert first.images == tuple(urls)
    assert [ask.images[0].partition(",")[0] for ask in (second, third)] == ["data:image/png;base64"] * 2
    assert second.images != third.images
    with pytest.raises(UsageError, match=r"line 2: 'none.png' cannot be read \(No such file or directory\)$"):
        asks(2, file=file_of(tmp_path, [rows[0], {"prompt": "b", "images": "none.png"}]))


def test_a_file_without_anything_to_ask_is_refused_and_does_not_spin(tmp_path):
    how = file_of(tmp_path, [{"conversations": [{"from": "gpt", "value": "1"}]}], name="f.json")
    with pytest.raises(UsageError, match="holds nothing that could be asked"):
        units(1, file=how)


def test_bad_lines_are_counted_once_and_passed_over_where_that_is_asked_for(tmp_path):
    rows = [PROMPTS[0], {"prompt": 3}, PROMPTS[1]]
    with pytest.raises(UsageError, match="line 2: prompt is 3"):
        units(2, file=file_of(tmp_path, rows))
    script = Script(recipe(file=file_of(tmp_path, rows), skip_bad_lines=True))
    assert len(list(islice(script.units(0), 6))) == 6
    assert script.bad_lines == 1


# traces


def mooncake(tmp_path, blocks, lengths, name="t.jsonl"):
    rows = [
        {"timestamp": n * 10, "input_length": length, "output_length": 2, "hash_ids": ids}
        for n, (ids, length) in enumerate(zip(blocks, lengths, strict=True))
    ]
    return file_of(tmp_path, rows, name=name)


def test_equal_hashes_are_equal_text_and_other_hashes_are_not(tmp_path):
    how = mooncake(tmp_path, [[1, 2, 3], [1, 2, 4], [5, 2, 3]], [1500, 1300, 1536])
    a, b, c = (ask.prompt.split() for ask in asks(3, file=how, course=Course()))
    assert (len(a), len(b), len(c)) == (1500, 1300, 1536)
    assert a[:1024] == b[:1024]
    assert a[1024:1100] != b[1024:1100]
    assert a[:512] != c[:512]
    assert a[512:1500] == c[512:1500]


def test_other_traces_seeds_and_stages_have_other_text(tmp_path):
    first = asks(1, file=mooncake(tmp_path, [[1]], [512]), course=Course())[0].prompt
    assert asks(1, file=mooncake(tmp_path, [[1]], [512]), course=Course())[0].prompt == first
    for other in (
        asks(1, file=mooncake(tmp_path, [[1]], [512], "u.jsonl"), course=Course()),
        asks(1, file=mooncake(tmp_path, [[1]], [512]), course=Course(), seed=2),
        asks(1, stage=1, file=mooncake(tmp_path, [[1]], [512]), course=Course()),
    ):
        assert other[0].prompt != first


def test_a_prompt_longer_than_its_hashes_is_filled_up_with_its_own_words(tmp_path):
    how = mooncake(tmp_path, [[1], [1]], [600, 600])
    a, b = (ask.prompt.split() for ask in asks(2, file=how, course=Course()))
    assert len(a) == len(b) == 600
    assert a[:512] == b[:512]
    assert a[512:] != b[512:]


def test_a_trace_brings_its_times_where_they_are_wanted_and_starts_over_where_not(tmp_path):
    how = mooncake(tmp_path, [[1], [2]], [10, 20])
    assert [unit.due_ns for unit in units(9, file=how, course=Course())] == [0, 10_000_000]
    assert [unit.due_ns for unit in units(5, file=how)] == [None] * 5


def test_prompts_of_a_trace_are_exact_under_a_tokenizer_without_whole_words(tmp_path):
    path = made_tokenizer(tmp_path / "tok.json", 300)
    how = mooncake(tmp_path, [[1, 2], [1, 3]], [700, 1000])
    made = asks(2, file=how, course=Course(), tokenizer=str(path))
    assert [load(str(path)).count(ask.prompt) for ask in made] == [700, 1000]
    assert made[0].prompt[:700] == made[1].prompt[:700]


def test_images_are_shown_in_the_first_turn_of_a_session_and_quoted_in_the_others():
    (unit,) = units(1, images=("8x8",), turns=parse_distribution("3", "count"), most_turns=3)
    first, *later = [asked.ask for asked in unit.asked]
    assert len(first.images) == 1
    assert first.shown == ()
    assert {(ask.images, ask.shown) for ask in later} == {((), first.images)}
