import pytest

from analysis import spelling


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (0.1234, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234567.8, "1,234,568")],
)
def test_numbers_have_about_four_digits(value, shown):
    assert spelling.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.5, "0.500"), (99_999.4, "99,999"), (99_999.6, "100k"), (9_999_499, "9,999k"), (12_345_678, "12M")],
)
def test_a_narrow_column_holds_any_number(value, shown):
    assert spelling.short(value) == shown
    assert len(shown) <= 6


def test_words_from_outside_cannot_steer_the_terminal():
    assert spelling.plain("a\x1b[31mb\rc\x07\u202e\u2028d") == "a [31mb c   d"
    assert spelling.plain("Qwen2.5-7B é 中") == "Qwen2.5-7B é 中"


def test_a_profile_has_no_unit_behind_its_time():
    assert spelling.load_words({"mode": "rate", "value": 12.5}) == "12.5/s"
    assert spelling.load_words({"mode": "rate", "profile": "sine:5..50@20s"}) == "sine:5..50@20s"
