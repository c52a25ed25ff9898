import pytest

from loadgen.distribution import Distribution, FromFile, parse_distribution
from loadgen.errors import UsageError
from loadgen.workload.lengths import pairs, resolved


def column(tmp_path, text: str, side: str = "input_tokens", columns=None):
    path = tmp_path / "lengths"
    path.write_text(text)
    drawn = resolved(FromFile(str(path)), side, columns or {})
    return [drawn.draw((n + 0.5) / 100) for n in range(100)], drawn


@pytest.mark.parametrize(
    "text", ["1\n2\n3\n2\n", "tokens\n1\n2\n3\n2\n", '{"input_tokens": 1}\n{"input_tokens": 3}\n' * 1]
)
def test_a_value_is_drawn_as_often_as_it_stands_in_the_file(tmp_path, text):
    values, drawn = column(tmp_path, text)
    assert drawn.mean == sum(values) / len(values) == 2
    assert drawn.most == 3
    if "2\n" in text:
        assert [values.count(n) for n in (1, 2, 3)] == [25, 50, 25]


def test_a_distribution_is_itself():
    assert isinstance(resolved(parse_distribution("normal:50,5", "count"), "input_tokens", {}), Distribution)


def test_columns_are_found_by_name_by_the_user_or_by_their_place(tmp_path):
    path = tmp_path / "p.csv"
    for text, columns in (
        ("input_tokens,output_tokens\n5,50\n6,60\n", {}),
        ("output_tokens,input_tokens\n50,5\n60,6\n", {}),
        ("5,50\n6,60\n", {}),
        ("a,b,c\n1,5,50\n1,6,60\n", {"input_tokens": "b", "output_tokens": "c"}),
    ):
        path.write_text(text)
        assert pairs(str(path), columns) == [(5, 50), (6, 60)], text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\nx\n", "line 2: input_tokens is 'x'"),
        ("1\n0\n", "line 2: input_tokens is '0'; allowed are whole numbers from 1"),
        ("a,b,c\n1,2,3\n", "line 2: there is no column for input_tokens; name it with --columns input_tokens=NAME"),
        ("\n", "is empty"),
    ],
)
def test_what_is_no_length_is_told_with_its_line(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        column(tmp_path, text)
