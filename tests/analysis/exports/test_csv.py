import csv
import shutil

import pyarrow.csv as arrow_csv
import pytest
from synthetic import START_NS, row, write_run

from analysis import summary
from analysis.exports import csv as csv_export
from analysis.exports.requests import REQUESTS


@pytest.fixture(scope="module")
def out_dir(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("csv")
    assert csv_export.write(run_dir, out, 0) == [out / "requests.csv", out / "stages.csv"]
    return out


def test_a_line_a_request_with_the_columns_of_the_parquet_file(out_dir, everything):
    table = arrow_csv.read_csv(out_dir / "requests.csv")
    assert table.column_names == REQUESTS.names
    assert table["sent_ns"].to_pylist() == [r["sent_ns"] - START_NS for r in everything]
    assert [word or None for word in table["error"].to_pylist()] == [r.get("error") for r in everything]


def test_a_line_a_stage_with_the_figures_of_the_summary(run_dir, out_dir):
    with (out_dir / "stages.csv").open() as file:
        lines = list(csv.DictReader(file))
    stages = summary.summarize(run_dir)["stages"]
    assert [line["name"] for line in lines] == [stage["name"] for stage in stages]
    for line, stage in zip(lines, stages, strict=True):
        assert float(line["ttft_p99_ms"]) == stage["ttft_ms"]["p99"]
        assert int(line["itl_count"]) == stage["itl_ms"]["count"]
        assert line["ttft_unreliable"].split() == stage["ttft_ms"]["unreliable"] != []
        assert float(line["output_tokens_per_s"]) == stage["output_tokens_per_s"]
        assert line["ttft_intended_p50_ms"] == str((stage["ttft_intended_ms"] or {}).get("p50", ""))
        assert int(line["failed"]) == stage["requests"]["failed"]


def test_a_servers_words_are_no_formula(tmp_path):
    rows = [row(START_NS, [START_NS + 5], response_id="=cmd()", finish_reason="@stop"), row(START_NS, [START_NS + 6])]
    csv_export.write(write_run(tmp_path / "run", rows), tmp_path, 0)
    (first, second) = arrow_csv.read_csv(tmp_path / "requests.csv").to_pylist()
    assert (first["response_id"], first["finish_reason"]) == ("'=cmd()", "'@stop")
    assert not second["response_id"]
    shutil.rmtree(tmp_path / "run")
