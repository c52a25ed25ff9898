import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.workload import formats
from loadgen.workload.containers import BadLine, Record
from loadgen.workload.formats import named, reading, rows
from loadgen.workload.formats.row import Reading, Turn
from loadgen.workload.formats.values import NS_PER_MS, NS_PER_S


def file_of(tmp_path, data: Any) -> str:
    """JSON lines of a list of rows, else the text as it is."""
    path = tmp_path / "f"
    path.write_text(data if isinstance(data, str) else "".join(json.dumps(row) + "\n" for row in data))
    return str(path)


def read(tmp_path, data: Any, columns: dict[str, str] | None = None, conversations: str = "auto") -> Any:
    how = reading(file_of(tmp_path, data), None, columns or {}, conversations)
    return how.format, list(rows(how))


CHAT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "One?"},
    {"from": "gpt", "value": "1"},
    {"from": "human", "value": "Two?"},
    {"from": "human", "value": "Please."},
    {"from": "gpt", "value": "2"},
]


def test_sharegpt_is_a_session_of_what_the_human_said(tmp_path):
    name, (row,) = read(tmp_path, json.dumps([{"id": "a", "conversations": CHAT}], indent=1))
    assert name == "sharegpt"
    assert row.system == "Be brief."
    assert [(turn.prompt, turn.answer) for turn in row.turns] == [("One?", "1"), ("Two?\n\nPlease.", "2")]


def test_a_copy_of_sharegpt_with_roles_reads_the_same(tmp_path):
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    copied = [{"role": roles[one["from"]], "content": one["value"]} for one in CHAT]
    first = read(tmp_path, json.dumps([{"conversations": CHAT}]))
    assert first == read(tmp_path, json.dumps([{"conversations": copied}]))


@pytest.mark.parametrize(("wanted", "turns"), [("sessions", 2), ("first", 1), ("last", 1)])
def test_a_conversation_is_what_is_asked_for(tmp_path, wanted, turns):
    _, (row,) = read(tmp_path, json.dumps([{"conversations": CHAT}]), conversations=wanted)
    assert len(row.turns) == turns
    if wanted == "last":
        assert [one["role"] for one in row.turns[0].messages] == ["system", "user", "assistant", "user", "user"]
    else:
        assert row.turns[0].prompt == "One?"


def test_messages_go_out_as_they_are_with_tools_and_fields_but_without_the_recorded_answer(tmp_path):
    said = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "hello"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    line = {"messages": said, "tools": tools, "max_tokens": 9, "temperature": 0.5, "id": "x", "stream": False}
    name, (row,) = read(tmp_path, [line])
    assert name == "messages"
    assert row.turns == (
        Turn(messages=(said[0],), tools=tuple(tools), output_tokens=9, answer="hello", extra={"temperature": 0.5}),
    )


def test_a_batch_file_is_its_bodies(tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 7, "top_p": 0.9}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    name, (row,) = read(tmp_path, [line])
    assert name == "batch"
    assert (row.turns[0].output_tokens, row.turns[0].extra) == (7, {"top_p": 0.9})
    assert row.turns[0].messages == ({"role": "user", "content": "hi"},)


def test_vllms_custom_lines_and_any_columns_are_prompts(tmp_path):
    assert read(tmp_path, [{"prompt": "a b", "output_tokens": 5}])[1][0].turns == (Turn("a b", output_tokens=5),)
    name, (row,) = read(tmp_path, "frage,len\nWie?,12\n", {"prompt": "frage", "output_tokens": "len"})
    assert (name, row.turns[0].prompt, row.turns[0].output_tokens) == ("prompts", "Wie?", 12)


@pytest.mark.parametrize(
    "line", ["Well, tell me a story, please.", "One, two", "Dear Sir, I have a question to ask", '"Oh", she said']
)
def test_prose_with_commas_is_no_table(tmp_path, line):
    name, read_rows = read(tmp_path, f"{line}\nAnother line\n")
    assert (name, read_rows[0].turns[0].prompt) == ("text", line)


def test_text_is_a_prompt_a_line(tmp_path):
    name, read_rows = read(tmp_path, "Tell me a story.\n\nAnother one\n")
    assert name == "text"
    assert [(row.line, row.turns[0].prompt) for row in read_rows] == [(1, "Tell me a story."), (3, "Another one")]


TRACED = {
    "mooncake": (
        [{"timestamp": 27_482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2354]}],
        (27_482 * NS_PER_MS, 6955, 52, (46, 47, 2354), 512),
    ),
    "bailian": (
        [
            {
                "chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 521, "output_length": 132,
                "type": "text", "turn": 1, "hash_ids": [1089, 1090],
            }
        ],
        (61_114 * NS_PER_MS, 521, 132, (1089, 1090), 16),
    ),
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
        (1_700_158_546 * NS_PER_S + 680_590_000, 374, 44, (), 0),
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n",
        (5 * NS_PER_S, 472, 18, (), 0),
    ),
    "timed": ([{"time": 1.5, "input_tokens": 3, "output_tokens": 0}], (1_500 * NS_PER_MS, 3, 1, (), 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRACED)
def test_a_trace_is_known_by_its_columns_and_says_when_and_how_much(tmp_path, name):
    data, expected = TRACED[name]
    found, (row,) = read(tmp_path, data)
    assert found == name
    (turn,) = row.turns
    assert (row.at_ns, turn.input_tokens, turn.output_tokens, row.hash_ids, row.block_tokens) == expected


def test_azure_of_2024_has_a_zone(tmp_path):
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    _, (utc, east) = read(
        tmp_path, f"{head}2024-05-12 04:00:00.009930+00:00,1,2\n2024-05-12 06:00:00.009930+02:00,1,2\n"
    )
    assert utc.at_ns == east.at_ns == 1_715_486_400 * NS_PER_S + 9_930_000


def test_burstgpt_is_read_by_name_and_leaves_failures_out(tmp_path):
    head = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    _, read_rows = read(
        tmp_path, f"{head}1,s1,2,GPT-4,10,20,30,API log\n2,,2,GPT-4,10,0,10,API log\n3,,1,ChatGPT,7,8,15,x\n"
    )
    assert [(row.at_ns // NS_PER_S, row.session, row.turns[0].output_tokens) for row in read_rows] == [
        (1, "s1", 20),
        (3, None, 8),
    ]


def test_the_unit_of_a_time_is_what_its_column_ends_in(tmp_path):
    for column, value in (("t", 1.5), ("t_ms", 1500), ("t_us", "1500000"), ("t_ns", 1_500_000_000)):
        data = [{column: value, "input_tokens": 1}]
        _, (row,) = read(tmp_path, data, {"timestamp": column})
        assert row.at_ns == 1_500_000_000, column


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        ([{"prompt": "a"}], {"prompt": "question"}, "line 1: there is no column 'question'; there are 'prompt'"),
        ([{"prompt": "a"}, {"prompt": 3}], {}, "line 2: prompt is 3, which is no text"),
        ([{"prompt": "a", "output_tokens": "few"}], {}, "line 1: output_tokens is 'few', which is no number of tokens"),
        ([{"prompt": "a", "output_tokens": -1}], {}, "line 1: output_tokens is -1; allowed are whole numbers from 0"),
        ([{"messages": [{"content": "a"}]}], {}, "line 1: a message has no role"),
        (
            [{"conversations": [{"from": "ghost", "value": "x"}]}],
            {},
            "line 1: a message is from 'ghost'; allowed is human",
        ),
        ([{**TRACED["mooncake"][0][0], "hash_ids": ["a"]}], {}, "line 1: hash_ids is no list of whole numbers"),
        ([{**TRACED["mooncake"][0][0], "timestamp": "soon"}], {}, "line 1: timestamp is 'soon', which is no time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:15:46,1,2\n", {}, "line 2: TIMESTAMP is '2023-13-16"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(tmp_path, data, columns, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, data, columns)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "words"), [("a,b\n1,2\n", "its columns are 'a', 'b'"), ("[]", "holds no records"), (" \n", "is empty")]
)
def test_a_file_of_no_known_format_says_what_it_has(tmp_path, data, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path, data)


def test_a_format_that_is_named_says_which_column_it_lacks(tmp_path):
    with pytest.raises(BadLine, match=r"mooncake has a column timestamp, and there is none; there are 'prompt'"):
        reading(file_of(tmp_path, [{"prompt": "a"}]), "mooncake", {})


def test_a_format_may_stand_behind_the_file(tmp_path):
    path = file_of(tmp_path, [{"prompt": "a"}])
    odd = tmp_path / "odd:text"
    odd.write_text("a file that is called so")
    assert named(f"{path}:sharegpt") == (path, "sharegpt")
    assert named(path) == (path, None)
    assert named(str(odd)) == (str(odd), None)
    assert named("nowhere:2:text") == ("nowhere:2", "text")
    assert named("nowhere:odd") == ("nowhere:odd", None)
    for wrong in ("ShareGPT", "", "csv"):
        with pytest.raises(UsageError, match=rf": '{wrong}' is no format; allowed is sharegpt, messages, batch, "):
            named(f"{path}:{wrong}")


MESSY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {name for names in formats.FIELDS.values() for name in names} | {"body", "from", "value", "parent_chat_id"}
)


@given(name=st.sampled_from(sorted(formats._MAKERS)), values=st.dictionaries(st.sampled_from(KEYS), MESSY, max_size=8))
def test_any_record_is_a_row_or_a_bad_line_and_never_anything_else(name, values):
    columns = {field: column for field, names in formats.FIELDS.items() for column in names if column in values}
    how = Reading("f", name, "jsonl", columns | formats._OWN.get(name, {}))
    bad = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(formats.containers, "records", lambda *_: iter([Record(7, values)]))
        found = list(rows(how, bad.append))
    assert len(found) + len(bad) <= 1
    assert all(str(one).startswith("f: line 7: ") for one in bad)
    for row in found:
        assert all(turn.output_tokens is None or 0 <= turn.output_tokens < 1 << 31 for turn in row.turns)
