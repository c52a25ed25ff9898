"""Events that are taken for known without being parsed: only those that say the same."""

import json
from unittest.mock import patch

import pytest
from decoded import cut, ended
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import chat_chunk, event, sglang_event, spoken

from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import CONTENT, REASONING, Answer
from loadgen.worker.decoding import FRAMES_TRIED, event_tokens
from loadgen.worker.exchange import Exchange
from loadgen.worker.likeness import Frame, marks_of, text_of

FIRST = b'{"index":1,"token":{"id":5,"text":"a","logprob":-0.5,"special":false},"generated_text":null,"details":null}'


def frame_of(payload: bytes, api: str = "tgi", kind: int = CONTENT) -> Frame | None:
    dialect, answer = DIALECTS[api], Answer()
    assert dialect.read(payload, answer) == kind
    found = Frame.of(payload, kind, answer, dialect, marks_of(dialect))
    return None if found is None else found[0]


def test_a_frame_has_holes_where_events_differ():
    frame = frame_of(FIRST)
    assert frame.holes == ("number", "number", "text", "number")
    assert frame.literals[0] == b'{"index":'
    assert frame.literals[-1] == b',"special":false},"generated_text":null,"details":null}'


@pytest.mark.parametrize(
    ("old", "new", "is_alike"),
    [
        (b'"a"', b'"other words"', True),
        (b'"a"', b'"\\n"', True),
        (b'"a"', b'"\\""', True),
        (b'"a"', b'"\\u00e9"', True),
        (b'"a"', '"é"'.encode(), True),
        (b":1,", b":12,", True),
        (b"-0.5", b"-1.25e-07", True),
        (b"-0.5", b"0", True),
        # what says something else
        (b'"a"', b'""', False),
        (b"false", b"true", False),
        (b"null,", b'"the end",', False),
        (b"index", b"Index", False),
        (b"}", b',"more":1}', False),
        # what is no JSON, and has to be found out
        (b'"a"', b'"\\x"', False),
        (b'"a"', b'"\\ud800"', False),
        (b'"a"', b'"\t"', False),
        (b'"a"', b'"\xff"', False),
        (b'"a"', b'"a"b"', False),
        (b":1,", b":01,", False),
        (b":1,", b":1-2,", False),
        (b":1,", b":,", False),
        (b":1,", b":1;2,", False),
        (b"-0.5", b"-.5", False),
        (b"-0.5", b"NaN", False),
    ],
)
def test_only_what_says_the_same_is_alike(old, new, is_alike):
    frame = frame_of(FIRST)
    changed = FIRST.replace(old, new, 1)
    assert frame.compare([changed], None).unlike == ([] if is_alike else [0])
    # And among others.
    assert frame.compare([FIRST, changed, FIRST], None).unlike == ([] if is_alike else [1])


def test_half_a_character_at_the_end_of_two_texts_is_no_whole_one():
    frame = frame_of(FIRST)
    halves = [FIRST.replace(b'"a"', b'"\xc3"'), FIRST.replace(b'"a"', b'"\xa9"')]
    assert frame.compare(halves, None).unlike == [0, 1]


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(chat_chunk({"content": "end"}, "stop")).encode(),  # says more than a text
        json.dumps(chat_chunk({"content": "a", "refusal": "b"})).encode(),  # is output without its text, too
        b'{"choices":[{"delta":{"content":["a"]}}]}',
    ],
)
def test_an_event_that_says_more_makes_no_frame(payload):
    answer = Answer()
    dialect = DIALECTS["chat"]
    try:
        kind = dialect.read(payload, answer)
    except TypeError:
        return
    assert Frame.of(payload, kind, answer, dialect, marks_of(dialect)) is None


def test_what_looks_like_a_key_in_a_text_is_text():
    payload = json.dumps(chat_chunk({"content": '{"content": "x", "total_tokens": 5}'})).encode()
    frame = frame_of(payload, "chat")
    assert frame.holes == ("text",)
    assert frame.compare([payload, payload.replace(b'\\"x\\"', b'\\"yz\\"')], None).unlike == []


def test_thoughts_have_a_frame_of_their_own():
    thoughts = [event(chat_chunk({"reasoning": f"hm{i}"})) for i in range(50)]
    words = [event(chat_chunk({"content": f"word{i}"})) for i in range(50)]
    exchange = ended(*thoughts, *words, event(chat_chunk({}, "stop")))
    assert list(exchange.kinds) == [REASONING] * 50 + [CONTENT] * 50
    assert exchange.frames_tried == 2


def test_where_the_text_repeats_itself_it_has_to_go_on_from_what_was_there():
    first = json.dumps(sglang_event("Hel", [1], 1)).encode()
    second = json.dumps(sglang_event("Hello", [1, 2], 2)).encode()
    third = json.dumps(sglang_event("Hello you", [1, 2, 3], 3)).encode()
    dialect, answer = DIALECTS["sglang"], Answer()
    dialect.read(first, answer)
    dialect.read(second, answer)
    frame, text = Frame.of(second, CONTENT, answer, dialect, marks_of(dialect))
    assert (frame.cumulative, text, frame.totals, frame.added) == (True, b"Hello", True, 0)
    alike = frame.compare([third], text)
    assert (alike.unlike, alike.texts, alike.so_far.tolist()) == ([], [b"Hello you"], [3])
    assert frame.compare([second], text).unlike == [0], "nothing new"
    assert frame.compare([third], None).unlike == [0], "nobody knows what was there"
    assert frame.compare([third], b"Bye").unlike == [0]
    assert frame.compare([first, third], text).unlike == [0], (
        "the frame of the first is the same, and so is its text's form"
    )


@pytest.mark.parametrize("bad", [b"[1,,2]", b"[1,2", b"[01,2,]", b"[1 2]", b"[1,2,x]", b"[01,2]", b"[1,02]", b"[1;2]"])
def test_a_list_that_is_none_is_left_to_the_parser(bad):
    first = json.dumps(sglang_event("Hel", [1], 1)).encode()
    second = json.dumps(sglang_event("Hello", [1, 2], 2)).encode()
    dialect, answer = DIALECTS["sglang"], Answer()
    dialect.read(first, answer)
    dialect.read(second, answer)
    frame, text = Frame.of(second, CONTENT, answer, dialect, marks_of(dialect))
    broken = second.replace(b"[1, 2]", bad).replace(b"Hello", b"Hello!")
    assert frame.compare([broken], text).unlike == [0]


def test_one_bad_event_among_many_is_found():
    good = spoken("llamacpp", [f"w{i}" for i in range(60)])
    bad = good.replace(b'"tokens_predicted":30,', b'"tokens_predicted":30x,')
    assert bad != good
    exchange = ended(bad, dialect=DIALECTS["llamacpp"])
    assert (exchange.error, len(exchange.kinds)) == ("bad-event", 59)
    exchange = ended(good, dialect=DIALECTS["llamacpp"])
    assert (exchange.error, event_tokens(exchange)) == (None, [1] * 60)


def test_counts_go_on_across_events_that_are_parsed_and_those_that_are_not():
    texts = [f"w{i}" for i in range(20)]
    stream = spoken("sglang", texts)
    exchange = ended(stream[: stream.index(b"w15") + 40], dialect=DIALECTS["sglang"], error="cancelled")
    assert exchange.answer.output_tokens == exchange.answer.cumulative_tokens == len(exchange.kinds)
    assert len(exchange.kinds) >= 14


@pytest.mark.parametrize("values", [[(1, 1), (1, 2), (1, 3)], [(1, 5), (1, 5), (1, 5)], [(1, 5), (2, 5), (3, 6)]])
def test_counts_behind_other_values_are_those_of_each_event(values):
    literals = (b'{"text":"', b'","took":', b',"count":', b',"done":', b"}")
    frame = Frame(literals, ("text", "number", "so_far", "number"), CONTENT, True, 2, True)
    events = [b'{"text":"%b","took":%d,"count":%d,"done":0}' % (b"ab" * n, *value) for n, value in enumerate(values, 2)]
    alike = frame.compare(events, b"ab")
    assert (alike.unlike, alike.looked_at, alike.texts[-1]) == ([], 3, b"ab" * 4)
    assert alike.so_far.tolist() == [count + 2 for _, count in values]
    cut_off = frame.compare([*events, b"[DONE]"], b"ab")
    assert (cut_off.unlike, cut_off.looked_at, cut_off.so_far.tolist()[:3]) == ([3], 4, alike.so_far.tolist())


def plainly(payloads: list[bytes], cuts: list[int], frames_tried: int) -> tuple:
    """What becomes of a stream of SGLang's; with as many frames tried as there may be, every event is parsed."""
    stream = b"".join(b"data: %b\n\n" % payload for payload in payloads)
    reads = cut(stream, cuts)
    with patch.object(Exchange, "__init__", _with_frames_tried(frames_tried)):
        exchange = ended(*reads, dialect=DIALECTS["sglang"], quoted=True, segment_ends=tuple(range(1, len(reads), 2)))
    answer = exchange.answer
    return (
        list(exchange.kinds),
        list(exchange.cumulative),
        exchange.texts,
        exchange.error,
        exchange.words,
        (answer.output_tokens, answer.prompt_tokens, answer.finish_reason, answer.response_id, answer.end_seen),
    )


def _with_frames_tried(tried: int):
    make = Exchange.__init__

    def init(self, *arguments):
        make(self, *arguments)
        self.frames_tried = tried

    return init


WORDS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ['"', "\\", '","output_ids":[', "\ufffd", "\n"]
)


@st.composite
def growing(draw):
    """Events whose texts mostly grow, as SGLang says them: with ids or without, escaped or not, and odd ones among them."""
    has_ids, ascii_only, tight = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    said, ids, payloads = "", [], []
    for number in range(draw(st.integers(2, 14))):
        # With ids their number tells whether all is there; without, only that the text grows.
        said = draw(st.sampled_from([said, said, said, said[:-1], ""] if has_ids else [said])) + draw(WORDS)
        more = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3))
        ids = draw(st.sampled_from([ids, ids, ids, ids[:-1], []])) + more
        count = len(ids) if has_ids else draw(st.sampled_from([number + 1, number + 1, number + 3]))
        made = sglang_event(said, ids, count)
        if not has_ids:
            del made["output_ids"]
        if draw(st.integers(0, 9)) == 0:
            made = draw(
                st.sampled_from([{"error": {"message": "no"}}, made | {"more": 1}, {"text": 3}, {"meta_info": {}}])
            )
        separators = (",", ":") if tight else None
        payloads.append(json.dumps(made, ensure_ascii=ascii_only, separators=separators).encode())
    if draw(st.booleans()):
        payloads += [json.dumps(sglang_event(said, ids, len(payloads), {"type": "length"})).encode(), b"[DONE]"]
    return payloads


@settings(max_examples=400, deadline=None)
@given(growing(), st.lists(st.integers(0, 4000), max_size=12))
def test_texts_that_grow_are_read_as_if_each_event_were_parsed(payloads, cuts):
    assert plainly(payloads, cuts, 0) == plainly(payloads, cuts, FRAMES_TRIED)


def test_a_stream_whose_text_grows_says_the_same_wherever_it_is_cut():
    payloads = [json.dumps(sglang_event('he "said" \u00e9\u4e2d\\ ' * n, [*range(n)], n)).encode() for n in range(1, 9)]
    payloads.append(b"[DONE]")
    whole = plainly(payloads, [], FRAMES_TRIED)
    length = sum(len(payload) + 8 for payload in payloads)
    assert all(plainly(payloads, [place], 0) == whole for place in range(0, length, 3))


def test_the_text_of_raw_json():
    assert text_of(b'a\\n\\"\\u00e9') == 'a\n"é'
