"""`loadgen doctor` on this machine, and what later runs quote of it."""

import json

import pytest
from asked import typed

from loadgen.simulator.process import serve


def test_it_looks_without_measuring_and_says_so_as_json_too(tmp_path):
    ended = typed("doctor", "--no-measure", XDG_CACHE_HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "kernel stamps" in ended.stdout
    assert "stamp error" not in ended.stdout
    told = json.loads(typed("doctor", "--no-measure", "--json", XDG_CACHE_HOME=str(tmp_path)).stdout)
    assert told["floor"] is None
    assert {finding["level"] for finding in told["findings"]} <= {"ok", "warn", "bad"}
    assert all(finding["todo"] for finding in told["findings"] if finding["level"] != "ok")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.alone
def test_the_floor_that_it_measures_is_quoted_beside_later_results(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = typed("doctor", "--quick", "--json", **cache)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    floor = told["floor"]
    assert floor["wrong_tokens"] == 0
    assert floor["stamp_error_us"]["p50"] > 0
    assert floor["lateness_us"]["p50"] > 0
    assert floor["workers"] >= 1
    assert [step["streams"] for step in floor["steps"]] == [256, 1024]
    assert {"kernel stamps", "stamp error", "send lateness", "tokens/s a core", "workers"} <= {
        finding["name"] for finding in told["findings"]
    }
    with serve("--step", "1ms") as served:
        one = ("--requests", 20, "--input-tokens", 20, "--output-tokens", 5, "--workers", 1)
        run = typed("run", "--url", served.url, "--out", tmp_path / "run", *one, **cache)
    assert run.returncode == 0, run.stderr
    assert "floor of this machine (loadgen doctor, " in run.stdout
    quoted = json.loads((tmp_path / "run/summary.json").read_bytes())["floor"]
    assert quoted == {name: floor[name] for name in quoted}
    assert quoted["stamp_error_us"] == floor["stamp_error_us"]


def test_without_a_floor_nothing_is_quoted(tmp_path):
    with serve("--step", "1ms") as served:
        one = ("--requests", 20, "--input-tokens", 20, "--output-tokens", 5, "--workers", 1)
        run = typed("run", "--url", served.url, "--out", tmp_path / "run", *one, XDG_CACHE_HOME=str(tmp_path / "none"))
    assert run.returncode == 0, run.stderr
    assert "floor of this machine" not in run.stdout
    assert json.loads((tmp_path / "run/summary.json").read_bytes())["floor"] is None
