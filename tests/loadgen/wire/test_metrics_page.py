import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from loadgen.wire import exposition
from loadgen.wire.exposition import Sample, read_page

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 7.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.25
unwanted{engine="0"} 1.0
"""


class Everything:
    """Wants whatever there is."""

    def __contains__(self, name: object) -> bool:
        return bool(name) and not str(name).startswith("#")


def test_only_what_is_wanted_is_read():
    page = read_page(VLLM, {"vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket"})
    assert page.bad_lines == page.left_out == 0
    assert page.samples == [
        Sample("vllm:num_requests_running", (("engine", "0"), ("model_name", "m")), 3.0),
        Sample("vllm:time_to_first_token_seconds_bucket", (("engine", "0"), ("le", "0.001"), ("model_name", "m")), 0.0),
        Sample("vllm:time_to_first_token_seconds_bucket", (("engine", "0"), ("le", "+Inf"), ("model_name", "m")), 7.0),
    ]


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("m 1", (), 1.0),
        ("m\t1", (), 1.0),
        ("m 1 1700000000000", (), 1.0),
        ("m{} 1e3", (), 1000.0),
        ('m{a="b"} 2 1700000000 # {trace_id="x"} 0.5 1.0', (("a", "b"),), 2.0),
        ('m{ b = "2" , a = "1" , } 3', (("a", "1"), ("b", "2")), 3.0),
        ('m{a="x} y{ \\" \\\\ \\n"} 4', (("a", 'x} y{ " \\ \n'),), 4.0),
        ('m{a="\\q"}5', (("a", "\\q"),), 5.0),
        ("m 1\r", (), 1.0),
    ],
)
def test_a_line_is_read_as_the_format_has_it(line, labels, value):
    assert read_page(line, {"m"}).samples == [Sample("m", labels, value)]


@pytest.mark.parametrize(
    "line", ["m", "m ", "m x", "m 1_0", 'm{a="b" 1', "m{a=b} 1", "m{a} 1", 'm{a="b"} ', 'm{"a"} 1']
)
def test_a_line_that_is_no_sample_is_counted_and_costs_no_other(line):
    page = read_page(f"m 1\n{line}\nm 2", {"m"})
    assert [sample.value for sample in page.samples] == [1.0, 2.0]
    assert page.bad_lines == 1


@pytest.mark.parametrize("word", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_left_out(word):
    assert read_page(f"m {word}", {"m"}) == ([], 0, 0)


def test_samples_lines_and_labels_have_limits():
    page = read_page("m 1\n" * (exposition.MOST_SAMPLES + 5), {"m"})
    assert (len(page.samples), page.left_out) == (exposition.MOST_SAMPLES, 5)
    long = 'm{a="' + "x" * exposition.MOST_LINE_CHARS + '"} 1'
    many = "m{" + ",".join(f'a{n}="1"' for n in range(exposition.MOST_LABELS + 1)) + "} 1"
    assert read_page(f"{long}\n{many}", {"m"}) == ([], 2, 0)


@given(st.text(max_size=200))
def test_whatever_a_page_holds_it_is_read(text):
    for sample in read_page(text, Everything()).samples:
        assert math.isfinite(sample.value)


NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"_?[a-z][a-z0-9_]{0,3}", fullmatch=True),  # the reference keeps __ for itself
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8),
    max_size=4,
)


@given(st.lists(st.tuples(NAMES, LABELS, st.floats(allow_nan=False, allow_infinity=False)), max_size=6))
def test_pages_are_read_as_the_reference_reads_them(told):
    def escaped(word):
        return word.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    lines = [
        name
        + ("{" + ",".join(f'{k}="{escaped(v)}"' for k, v in labels.items()) + "}" if labels else "")
        + f" {value!r}"
        for name, labels, value in told
    ]
    text = "\n".join(lines) + "\n"
    reference = [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert sorted(read_page(text, Everything()).samples) == sorted(reference)
