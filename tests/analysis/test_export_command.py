import os
import subprocess
import sys

import pytest
from asked import PATIENCE_S
from click.testing import CliRunner
from synthetic import write_run

from analysis.exports import FORMATS as MODULES
from loadgen.cli.export import FORMATS, command
from loadgen.errors import UsageError


def invoked(*arguments):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_all_formats_at_once_print_the_paths_of_their_files(run_dir, tmp_path):
    assert tuple(MODULES) == FORMATS
    options = [word for name in FORMATS for word in ("--format", name)]
    result = invoked(run_dir, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    paths = result.output.splitlines()
    assert len(paths) == 13
    assert sorted(paths) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert all(os.stat(path).st_size for path in paths)


def test_files_go_into_the_run_where_nothing_else_is_said(tmp_path, everything):
    run_dir = write_run(tmp_path / "run", everything[:5])
    assert invoked(run_dir, "--format", "openmetrics").output == f"{run_dir / 'export' / 'metrics.txt'}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--format", "csv"], "is no run: there is no capture/ in it"),
        (["run"], "--format: not given; allowed are parquet, csv"),
        (["run", "--format", "xml"], "--format: 'xml' is unknown; allowed are parquet, csv"),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", [])
    result = invoked(*arguments)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_a_capture_without_a_head_is_refused(tmp_path):
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "worker-00.arrow").write_bytes(b"")
    assert isinstance(invoked(tmp_path, "--format", "parquet").exception, UsageError)


def test_a_folder_that_cannot_be_written_to_is_told_and_nothing_is_left(run_dir, tmp_path):
    (tmp_path / "file").write_text("here")
    result = invoked(run_dir, "--format", "parquet", "--out", tmp_path / "file")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == f"--out: '{tmp_path / 'file'}' cannot be written (File exists)"


def test_a_killed_run_exports_what_was_written(tmp_path, everything):
    run_dir = write_run(tmp_path / "run", everything[:200], closed=False, run_json=False)
    path = run_dir / "capture" / "worker-00.arrow"
    path.write_bytes(path.read_bytes()[:-700])
    options = [word for name in FORMATS for word in ("--format", name)]
    result = invoked(run_dir, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.exception


def test_memory_of_a_parquet_export_does_not_grow_with_the_run(tmp_path):
    """16 times as many batches: 67 MB of columns more if they were gathered; the row groups are what is held."""
    script = (
        "import sys, resource\nfrom pathlib import Path\nfrom analysis.exports import parquet\n"
        "parquet.ROW_GROUP = 1 << 16\nparquet.write(Path(sys.argv[1]), Path(sys.argv[2]), 0)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for batches in (8, 128):
        run_dir = tmp_path / str(batches)
        many_batches(run_dir, batches)
        done = subprocess.run(
            [sys.executable, "-c", script, str(run_dir), str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks


def many_batches(run_dir, batches):
    from synthetic import START_NS, file_facts, lock_step_batch, mark, stage_plan, watch, write_capture

    told = watch([], [mark(seconds=1000)])
    parts = [(lock_step_batch(128, 128, START_NS + k * 200_000_000, seed=k), told) for k in range(batches)]
    write_capture(run_dir / "capture" / "worker-00.arrow", file_facts([stage_plan()]), parts)
