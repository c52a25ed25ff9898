"""A run of the installed command, and what it leaves; its accounts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from asked import installed, rows, typed

from analysis.captures import open_capture


class Ran(NamedTuple):
    """What a run left: exit status, what it said, its rows by request_id, its summary."""

    status: int
    said: str
    complained: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    run_dir: Path


def ran(url: str, run_dir: Path, *arguments: object, page: bool = False, **variables: str) -> Ran:
    """`loadgen run` to its end, without the check that would refuse a bad endpoint, on one worker unless told."""
    words = [str(argument) for argument in arguments]
    workers = [] if "--workers" in words else ["--workers", "1"]
    words += [] if page else ["--no-html"]
    fixed = ["--model", "sim", "--no-check", "--input-tokens", "20", "--output-tokens", "4"]
    ended = typed("run", "--url", url, "--out", run_dir, *fixed, *workers, *words, **variables)
    assert "Traceback" not in ended.stderr + ended.stdout, ended
    path = run_dir / "summary.json"
    summary = json.loads(path.read_bytes()) if path.exists() else {}
    told = sorted(rows(run_dir), key=lambda row: row["request_id"])
    return Ran(ended.returncode, ended.stdout, ended.stderr, told, summary, run_dir)


def accounts_are_even(run: Ran) -> None:
    """Each request has one row; sent = completed + failed by class + cancelled, in the capture and in the summary."""
    ids = [row["request_id"] for row in run.rows]
    assert len(set(ids)) == len(ids), "no request is counted twice"
    captures = [open_capture(path) for path in (run.run_dir / "capture").rglob("*.arrow")]
    dropped = sum(row["error"] == "dropped" for row in run.rows)
    if all(capture.closed for capture in captures):
        assert sum(capture.watches[-1]["sent"] for capture in captures) == len(ids) - dropped, (
            "none is left out silently"
        )
    classes = Counter(row["error"] for row in run.rows)
    for stage in run.summary["stages"]:
        requests = stage["requests"]
        assert requests["sent"] == requests["completed"] + requests["failed"] + requests["cancelled"]
        assert requests["failed"] == sum(requests["errors"].values())
    whole = [stage["requests"] for stage in run.summary["stages"]]
    assert sum(requests["completed"] for requests in whole) <= classes[None]
    for error, count in classes.items():
        if error is not None and error not in ("cancelled", "dropped"):
            assert sum(requests["errors"].get(error, 0) for requests in whole) <= count


def run_command(url: str, run_dir: Path | str) -> list[str]:
    """`loadgen run` as it is typed, for who starts it himself."""
    return [*installed(), "run", "--url", url, "--model", "sim", "--no-check", "--out", str(run_dir)]


def in_trouble(trouble: str) -> dict[str, str]:
    """The environment in which workers meet it; see trouble/sitecustomize.py."""
    return {"PYTHONPATH": str(Path(__file__).parent / "trouble"), "WORKER_TROUBLE": trouble}
