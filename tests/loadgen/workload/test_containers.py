import contextlib
import csv
import gzip
import io
import json
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.workload import containers
from loadgen.workload.containers import BadLine, container_of, elements, records

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(
    values=st.lists(JSON_VALUES, max_size=12),
    indent=st.sampled_from([None, 0, 2]),
    ascii_=st.booleans(),
    read_bytes=st.integers(1, 40),
)
def test_an_array_is_cut_into_its_elements_wherever_the_reads_fall(values, indent, ascii_, read_bytes):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    with patch.object(containers, "READ_BYTES", read_bytes):
        cut = list(elements(io.BytesIO(text), "f"))
    assert [json.loads(one) for _, one in cut] == values
    lines = text.splitlines()
    for line, one in cut:
        assert one.splitlines()[0] in lines[line - 1], "the line is where the element begins"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_elements_or_a_bad_line_and_never_anything_else(data):
    cut = []
    with contextlib.suppress(BadLine):
        for _, one in elements(io.BytesIO(b"[" + data), "f"):
            cut.append(one)
    assert all(one.strip() == one != b"" for one in cut)


def test_an_array_that_stops_is_told_with_its_line():
    for text in (b'[\n{"a": 1},\n{"b"', b'[\n{"a": 1},\n{"b": "', b'[\n{"a": 1},\n{"b": 2}'):
        with pytest.raises(BadLine, match="line 3: the file ends"):
            list(elements(io.BytesIO(text), "f"))


ROWS = [{"prompt": 'He said "hi",\nand left', "n": "1"}, {"prompt": "Größe 大", "n": "22"}]


def written(tmp_path, name):
    path = tmp_path / name
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.startswith("rows.jsonl"):
        data = text.encode()
        if name.endswith(".gz"):
            data = gzip.compress(data)
        elif name.endswith(".zst"):
            data = pa.compress(data, codec="zstd", asbytes=True)
        path.write_bytes(data)
    elif name == "rows.json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif name == "rows.csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("rows.jsonl", "jsonl"),
        ("rows.jsonl.gz", "jsonl"),
        ("rows.jsonl.zst", "jsonl"),
        ("rows.json", "array"),
        ("rows.csv", "csv"),
        ("rows.parquet", "parquet"),
    ],
)
def test_a_file_is_known_by_its_content_and_reads_the_same_in_each_form(tmp_path, name, container):
    path = written(tmp_path, name)
    assert container_of(path) == container
    assert [record.values for record in records(path, container)] == ROWS


@pytest.mark.parametrize(
    ("data", "container", "words"),
    [
        (b'{"a": 1}\n{"a": \n', "jsonl", "line 2: this is no JSON"),
        (b'{"a": 1}\n\n[1]\n', "jsonl", "line 3: this is no JSON object"),
        (b'[{"a": 1},\n\n{"a": x}]', "array", "line 3: this is no JSON"),
        (b"a,b\n1,2\n3\n", "csv", "line 3: it has 1 columns, and the heading 2"),
        (b"hello\n\xff\xfe\n", "text", "line 2: this is no UTF-8"),
    ],
)
def test_a_bad_line_is_named_or_passed_over(tmp_path, data, container, words):
    path = tmp_path / "f"
    path.write_bytes(data)
    assert container_of(str(path)) == container
    with pytest.raises(BadLine, match=words):
        list(records(str(path), container))
    bad = []
    assert len(list(records(str(path), container, bad.append))) == 1
    assert len(bad) == 1


def test_a_line_without_an_end_is_refused_before_it_is_held(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b'{"a": "' + b"x" * 5000)
    with patch.object(containers, "MOST_LINE_BYTES", 1000), pytest.raises(BadLine, match="line 1: it is longer than"):
        list(records(str(path), "jsonl"))


def test_packed_data_that_is_cut_is_told(tmp_path):
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 10_000)[:-20])
    with pytest.raises(UsageError, match="cannot be read to its end"):
        list(records(str(path), "jsonl"))


def test_the_last_record_is_found_without_reading_the_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(50_000)))
    with patch.object(containers, "lines", side_effect=AssertionError):
        last = containers.last_record(str(path), "jsonl")
    assert last is not None
    assert last.values == {"n": 49_999}
