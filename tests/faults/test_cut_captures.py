"""A capture that ends anywhere: it reads to its last whole batch, and `loadgen report` works and says what is missing."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from accounts import ran
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.cli import main
from loadgen.simulator.process import serve


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run whose captures hold several batches with rows."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with serve("--step", "2ms", "--ttft", "5ms") as served:
        done = ran(served.url, run_dir, "--concurrency", 4, "--duration", "3s", "--warmup", "0s")
    assert done.status == 0, done.complained
    return run_dir


def ends_of_batches(path: Path) -> list[tuple[int, int]]:
    """[(bytes, rows)] behind the head and behind every batch, by Arrow's own reader."""
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_stream(source)
        ends, rows = [(source.tell(), 0)], 0
        for batch in reader:
            rows += batch.num_rows
            ends.append((source.tell(), rows))
    return ends


def report(run_dir: Path) -> tuple[int, str, str]:
    """`loadgen report RUN --json` in this process: status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["loadgen", "report", str(run_dir), "--json"]
    elsewhere = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with patch.object(sys, "argv", argv), elsewhere[0], elsewhere[1], pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def cut(whole, tmp_path_factory) -> Path:
    """Where cut copies go."""
    run_dir = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(whole, run_dir)
    return run_dir


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), has_run_json=st.booleans())
@example(share=0.0, has_run_json=True)
@example(share=1.0, has_run_json=False)
def test_a_capture_cut_at_any_byte_is_reported_as_far_as_it_goes(share, has_run_json, whole, cut):
    source = whole / "capture/worker-00.arrow"
    content, ends = source.read_bytes(), ends_of_batches(source)
    length = round(share * len(content))
    (cut / "capture/worker-00.arrow").write_bytes(content[:length])
    (cut / "run.json").unlink(missing_ok=True)
    if has_run_json:
        shutil.copy(whole / "run.json", cut / "run.json")
    status, said, complained = report(cut)
    assert "Traceback" not in complained
    if length < ends[0][0]:
        assert status == 2
        assert "no capture in" in complained
        assert len(complained.splitlines()) == 1
        return
    assert status == 0, complained
    summary: dict[str, Any] = json.loads(said)
    assert summary["capture"]["requests"] == max(rows for end, rows in ends if end <= length)
    reasons = {reason["code"]: reason["words"] for reason in summary["verdict"]["reasons"]}
    is_whole = length >= ends[-1][0]
    assert ("capture-cut" in reasons) == (not is_whole)
    if not is_whole:
        assert "(worker 0)" in reasons["capture-cut"]
        assert f"{summary['capture']['cut_requests']:,} requests that had been sent by then" in reasons["capture-cut"]
