"""How headers, fields, templates, tools and images are written; and that no secret gets in by that way."""

import json

import pytest

from loadgen.spec.body import (
    read_body_fields,
    read_extra_body,
    read_header_variables,
    read_headers,
    read_images,
    read_template,
    read_tools,
)

TOOL = {"type": "function", "function": {"name": "f"}}


def refusal(read, raw) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        read(raw)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    return words


def test_headers():
    assert read_headers(["X-A: b", "X-C:d: e", "X-Empty:"]) == (("X-A", "b"), ("X-C", "d: e"), ("X-Empty", ""))
    assert read_headers([["X-A", "b"]]) == (("X-A", "b"),), "as run.json has it"
    assert read_header_variables(["X-A=B_1"]) == (("X-A", "B_1"),)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("X-A", "allowed is 'Name: value'"),
        ("X A: b", "is no name of a header"),
        (": b", "is no name of a header"),
        ("X-A: b\r\nX-B: c", "characters that HTTP cannot send"),
        ("X-A: é", "characters that HTTP cannot send"),
        ("Content-Length: 5", "it cannot be set"),
        ("transfer-encoding: chunked", "it cannot be set"),
        ("Authorization: Bearer x", "Authorization looks like a secret"),
        ("api-key: x", "give --header-env api-key=VARIABLE"),
        ("X-Auth-Token: x", "looks like a secret"),
        ("Cookie: a=b", "looks like a secret"),
        ("X-Note: Bearer abcdef", "looks like a secret"),
        ("X-Note: sk-abcdefghijkl", "looks like a secret"),
    ],
)
def test_a_header_that_cannot_be_sent_or_should_not_be_seen_is_refused(raw, words):
    said = refusal(read_headers, [raw])
    assert words in said
    assert "abcdef" not in said


def test_a_header_is_given_once():
    assert "x-a is given twice" in refusal(read_headers, ["X-A: b", "x-a: c"])


def test_a_secret_in_the_place_of_its_variable_is_not_shown():
    for raw in ("X-Key=sk-123 456", "X-Key", "X-Key="):
        said = refusal(read_header_variables, [raw])
        assert "this names no environment variable" in said
        assert "sk-123" not in said


def test_fields_of_the_body():
    assert read_extra_body('{"top_p": 0.5, "stop": null}') == {"top_p": 0.5, "stop": None}
    assert read_extra_body({"a": 1}) == {"a": 1}
    assert read_body_fields(["a=1", "b.c=true", "b.d=word", "e=[1]", 'f="1"', "g=x=y", "h="]) == {
        "a": 1,
        "b": {"c": True, "d": "word"},
        "e": [1],
        "f": "1",
        "g": "x=y",
        "h": "",
    }
    assert read_body_fields({"a": {"b": 1}}) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("read", "raw", "words"),
    [
        (read_extra_body, "{", "this is no JSON ("),
        (read_extra_body, "[1]", "this is no JSON object"),
        (read_extra_body, "[" * 100_000, "this is no JSON"),
        (read_extra_body, '{"api_key": "x"}', "api_key looks like a secret"),
        (read_extra_body, '{"note": "sk-abcdefghijkl"}', "note looks like a secret"),
        (read_body_fields, ["top_p"], "allowed is NAME=VALUE"),
        (read_body_fields, ["=1"], "allowed is NAME=VALUE"),
        (read_body_fields, ["a..b=1"], "allowed is NAME=VALUE"),
        (read_body_fields, ["a=1", "a.b=2"], "inside of a field that has a value already"),
        (read_body_fields, ["password=x"], "password looks like a secret"),
    ],
)
def test_what_is_no_field_is_refused(read, raw, words):
    assert words in refusal(read, raw)


def test_limits_of_tokens_are_no_secrets():
    assert read_body_fields(["max_tokens=5", "eos_token_id=2", "key=3"]) == {
        "max_tokens": 5,
        "eos_token_id": 2,
        "key": 3,
    }


def test_a_template_and_tools_are_read_from_a_file_or_as_run_json_has_them(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"inputs": "{prompt}"}')
    assert read_template(str(file)) == read_template({"inputs": "{prompt}"}) == {"inputs": "{prompt}"}
    file.write_text(json.dumps([TOOL]))
    assert read_tools(str(file)) == read_tools([TOOL]) == read_tools(TOOL) == (TOOL,)


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_template, "{", "a.json' is no JSON ("),
        (read_template, "[1]", "the template is no JSON object"),
        (read_template, '{"a": "b"}', "has the prompt 0 times; allowed is {prompt} or {messages} once"),
        (read_template, '{"a": "{prompt}", "b": ["{messages}"]}', "has the prompt 2 times"),
        (read_tools, "[3]", "these are no tools"),
        (read_tools, '[{"type": "function"}]', "these are no tools"),
        (read_tools, "\ufeffno", "is no JSON"),
    ],
)
def test_a_file_that_is_no_template_and_no_tools_is_refused(read, text, words, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    assert words in refusal(read, str(file))
    assert "cannot be read (No such file or directory)" in refusal(read, str(tmp_path / "no"))


def test_images(tmp_path):
    file = tmp_path / "2@a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n....")
    assert read_images(["512x512", "2@8x9"]) == ("512x512", "8x9", "8x9")
    assert read_images(["https://h/a.png"]) == ("https://h/a.png",)
    assert read_images([f"2@{file}"]) == (str(file),) * 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("0x5", "is no size; allowed is from 1x1 to"),
        ("99999x5", "is no size"),
        ("0@5x5", "are too many or none"),
        ("1001@5x5", "are too many or none"),
        ("/no/such", "cannot be read (No such file or directory)"),
        (__file__, "is no image that models take; allowed are PNG, JPEG, GIF and WebP"),
    ],
)
def test_what_is_no_image_is_refused(raw, words):
    assert words in refusal(read_images, [raw])
