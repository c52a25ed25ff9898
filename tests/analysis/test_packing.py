from collections import Counter
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import START_NS, S

from analysis import packing
from analysis.captures import open_run
from analysis.histogram import EXACT_UP_TO, Histogram, filled, percentiles
from analysis.jobs import order_of, stage_tallies
from analysis.packing import pack, unpack
from analysis.tally import LISTS, StageTally, joined
from loadgen.schema import CaptureError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(plain)
def test_plain_values_come_back_as_they_were(value):
    assert unpack(pack(value)) == value


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.sampled_from(["zstd", "lz4", None]))
def test_arrays_come_back_with_their_type_and_may_be_added_to(values, compression):
    for dtype in packing.DTYPES.values():
        array = np.array(values, np.int64).astype(dtype)
        back = unpack(pack(array, compression))
        assert back.dtype == dtype
        assert back.tolist() == array.tolist()
        back |= back  # it is nobody else's


def test_pieces_come_back_as_one_and_the_same_ones_are_the_same_again():
    first, second = np.arange(3), np.arange(4)
    told = unpack(pack({"sent": [first, second], "due": [first, second], "ended": [first], "none": []}))
    assert [one.tolist() for one in told["sent"]] == [[0, 1, 2, 0, 1, 2, 3]]
    assert told["due"][0] is told["sent"][0], "requests without a schedule are due when they are sent"
    assert told["ended"][0].tolist() == [0, 1, 2]
    assert told["none"] == []


@pytest.mark.parametrize("count", [0, 1, 1000, EXACT_UP_TO + 1])
def test_a_histogram_comes_back_equal_with_its_exact_values(count):
    histogram = filled(np.random.default_rng(1).integers(-5, 1 << 43, count)) if count else Histogram()
    back = unpack(pack(histogram))
    assert back == histogram
    assert percentiles(back, [50, 99]) == percentiles(histogram, [50, 99])
    assert (back.pieces is None) == (histogram.pieces is None)
    back.counts[3] += 1
    assert back != histogram


def test_every_field_of_a_tally_comes_back(run_dir):
    run = open_run(run_dir)
    for stage, tally in stage_tallies(run.captures, order_of(run)).items():
        back = unpack(pack({stage: tally}))[stage]
        assert isinstance(back, StageTally)
        for field in fields(StageTally):
            was, now = getattr(tally, field.name), getattr(back, field.name)
            if field.name in LISTS:
                assert joined(now).tolist() == joined(was).tolist(), field.name
            elif field.name in ("judged", "judged_met", "judged_concerned"):
                assert {name: joined(one).tolist() for name, one in now.items()} == {
                    name: joined(one).tolist() for name, one in was.items()
                }
            elif field.name == "timeline":
                assert all(np.array_equal(getattr(now, one.name), getattr(was, one.name)) for one in fields(type(was)))
            else:
                assert now == was, field.name
                assert type(now) is type(was), field.name


def test_what_is_no_part_of_a_tally_is_refused_where_it_is_packed():
    for stranger in (object(), np.int64(1), np.zeros(2), {1: b"bytes"}, CaptureError):
        with pytest.raises(TypeError, match="no part of a tally"):
            pack([stranger])


@given(cut=st.integers(0, 10_000))
def test_bytes_that_were_cut_are_refused(cut):
    packed = pack({"one": np.arange(500), "counter": Counter("abc")})
    with pytest.raises(CaptureError):
        unpack(packed[: cut % (len(packed) - 16)])


@pytest.mark.parametrize("what", [b"", b"no arrow", b"\xff" * 64])
def test_bytes_that_are_something_else_are_refused(what):
    with pytest.raises(CaptureError, match="a part of the analysis is"):
        unpack(what)


@pytest.mark.parametrize(
    "skeleton",
    [
        '{"Window": [1]}',
        '{"eval": ["1"]}',
        '{"array": 7}',
        '{"array": "x"}',
        "{}",
        "[",
        '{"Histogram": [0, 0, 0]}',
        '{"a": 1, "b": 2}',
    ],
)
def test_a_skeleton_that_no_tally_has_is_refused(skeleton):
    rows = [[packing.SKELETON], [skeleton.encode()]]
    schema = packing._ROWS.with_metadata({"packed": packing.FORMAT})
    batch = pa.RecordBatch.from_arrays([pa.array(rows[0]), pa.array(rows[1], pa.large_binary())], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(CaptureError, match="damaged"):
        unpack(sink.getvalue().to_pybytes())


def test_another_loadgen_is_told_from_this_one(monkeypatch):
    packed = pack([1])
    monkeypatch.setattr(packing, "FORMAT", "of another version")
    with pytest.raises(CaptureError, match="another version"):
        unpack(packed)


def test_times_take_little_more_than_half_of_what_they_take_in_memory():
    rng = np.random.default_rng(3)
    sent = np.sort(rng.integers(START_NS, START_NS + 60 * S, 50_000))
    lists = {name: [sent + rng.integers(0, S, len(sent))] for name in LISTS}
    in_memory = sum(array.nbytes for (array,) in lists.values())
    assert len(pack(lists)) < 0.6 * in_memory
