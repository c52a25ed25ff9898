"""Several targets against simulated endpoints of different speeds: what each really answered is what is told of it."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import rows, typed

from loadgen.dealing import deal
from loadgen.simulator.process import Served, serve


@pytest.fixture(scope="module")
def fast() -> Iterator[Served]:
    with serve("--model", "base", "--adapter", "adapter", "--step", "2ms", "--ttft", "2ms") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    with serve("--model", "base", "--step", "12ms", "--ttft", "30ms") as simulator:
        yield simulator


SMALL = ("--input-tokens", 20, "--output-tokens", 5)


def run(run_dir: Path, *arguments: object, sizes: tuple[object, ...] = SMALL, page: bool = False) -> dict[str, Any]:
    """`loadgen run` to its end: its summary, with what it printed."""
    fixed = ("--workers", 1, "--warmup", "0s", *([] if page else ["--no-html"]))
    ended = typed("run", "--out", run_dir, *fixed, *sizes, *arguments)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
    told: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    return told | {"stdout": ended.stdout, "stderr": ended.stderr}


def since(run_dir: Path, simulator: Served) -> list[dict[str, Any]]:
    """What a simulator really answered to the requests of a run."""
    ids = {row["response_id"] for row in rows(run_dir)}
    return [row for row in simulator.truth().to_pylist() if row["response_id"] in ids]


def test_each_target_has_what_its_endpoint_answered_and_the_draw_is_that_of_the_seed(tmp_path):
    with serve("--model", "base", "--step", "2ms") as one, serve("--model", "base", "--step", "9ms") as other:
        told = run(
            tmp_path / "run",
            *("--target", f"name=new,url={one.url},weight=3", "--target", f"name=old,url={other.url}"),
            *("--concurrency", 6, "--requests", 200, "--seed", 11),
            page=True,
        )
        one.stop()
        other.stop()
        found = rows(tmp_path / "run")
        targets = Counter(row["target"] for row in found)
        expected = Counter(deal(11, [3, 1]).target(number) for number in range(200))
        assert targets == expected
        assert {row["endpoint"] - row["target"] for row in found} == {0}
        for number, simulator in enumerate((one, other)):
            mine = {row["response_id"]: row for row in found if row["target"] == number}
            truth = {row["response_id"]: row for row in since(tmp_path / "run", simulator)}
            assert mine.keys() == truth.keys(), "each went where its row says, and nothing else did"
            assert sum(len(row["event_ns"]) for row in mine.values()) == 5 * targets[number]
    new, old = told["stages"][0]["by_target"]
    assert [part["requests"]["completed"] for part in (new, old)] == [targets[0], targets[1]]
    for number, part in enumerate((new, old)):
        answers = [row["event_ns"] for row in found if row["target"] == number]
        slowest_ms = max((stamps[-1] - stamps[0]) / (len(stamps) - 1) / 1e6 for stamps in answers)
        assert part["tpot_ms"]["max"] == pytest.approx(slowest_ms, rel=0.001)
    assert [one["name"] for one in json.loads((tmp_path / "run/run.json").read_bytes())["targets"]] == ["new", "old"]
    assert "by target" in told["stdout"]


def test_models_and_adapters_behind_one_url(fast, tmp_path):
    told = run(
        tmp_path / "run",
        *("--url", fast.url, "--model", "base=3", "--model", "adapter", "--rate", 100, "--requests", 150, "--seed", 2),
        *("--save-bodies", "--arrivals", "constant"),
    )
    bodies = [json.loads(line) for line in (tmp_path / "run/bodies/worker-00.jsonl").read_text().splitlines()]
    asked = {body["request_id"]: json.loads(body["request"])["model"] for body in bodies}
    for row in rows(tmp_path / "run"):
        assert asked[row["request_id"]] == ("base", "adapter")[row["target"]]
    assert sum(part["requests"]["completed"] for part in told["stages"][0]["by_target"]) == 150
    assert [part["model"] for part in told["stages"][0]["by_target"]] == ["base", "adapter"]


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_urls_take_turns(fast, slow, tmp_path, transport):
    urls = ("--url", fast.url, "--url", slow.url)
    told = run(tmp_path / "run", *urls, "--concurrency", 4, "--requests", 60, "--transport", transport)
    assert Counter(row["endpoint"] for row in rows(tmp_path / "run")) == {0: 30, 1: 30}
    (only,) = told["stages"][0]["by_target"]
    assert [one["url"] for one in only["by_endpoint"]] == [fast.url, slow.url]
    assert [one["requests"]["completed"] for one in only["by_endpoint"]] == [30, 30]


def test_the_faster_url_gets_more_where_the_one_with_the_least_in_flight_is_next(fast, slow, tmp_path):
    told = run(
        tmp_path / "run",
        *("--url", fast.url, "--url", slow.url, "--balance", "least-in-flight", "--concurrency", 8, "--requests", 200),
    )
    first, second = (one["requests"]["completed"] for one in told["stages"][0]["by_target"][0]["by_endpoint"])
    assert first > 1.5 * second > 0, "seven times as fast, and a busy machine adds the same to both"


def test_a_session_stays_where_it_began(fast, slow, tmp_path):
    run(tmp_path / "run", "--url", fast.url, "--url", slow.url, "--turns", 3, "--concurrency", 4, "--sessions", 16)
    places: dict[int, set[int]] = {}
    for row in rows(tmp_path / "run"):
        places.setdefault(row["session_id"], set()).add(row["endpoint"])
    assert len(places) == 16
    assert all(len(one) == 1 for one in places.values())
    assert Counter(place for one in places.values() for place in one) == {0: 8, 1: 8}


def test_targets_of_different_apis_and_prepared_requests(fast, slow, tmp_path):
    lines = "".join(json.dumps({"prompt": f"say {n}", "output_tokens": 3}) + "\n" for n in range(40))
    (tmp_path / "prompts.jsonl").write_text(lines)
    told = run(
        tmp_path / "run",
        *("--target", f"url={fast.url},model=base", "--target", f"url={slow.root},api=tgi,name=tgi,usage=none"),
        *("--dataset", tmp_path / "prompts.jsonl", "--once", "--concurrency", 4, "--duration", "60s", "--seed", 4),
        "--save-bodies",
        sizes=(),
    )
    bodies = [json.loads(line) for line in (tmp_path / "run/bodies/worker-00.jsonl").read_text().splitlines()]
    target_of = {row["request_id"]: row["target"] for row in rows(tmp_path / "run")}
    for body in bodies:
        assert ("inputs" in json.loads(body["request"])) == (target_of[body["request_id"]] == 1)
    assert [part["api"] for part in told["stages"][0]["by_target"]] == ["chat", "tgi"]
    assert sum(part["requests"]["completed"] for part in told["stages"][0]["by_target"]) == 40
    assert Counter(target_of.values()) == Counter(deal(4, [1, 1]).target(number) for number in range(40))


def test_a_replay_sends_each_request_to_the_target_that_it_went_to(fast, slow, tmp_path):
    targets = ("--target", f"name=a,url={fast.url},weight=2", "--target", f"name=b,url={slow.url}")
    run(tmp_path / "first", *targets, "--rate", 100, "--requests", 60, "--seed", 5)
    turned = ("--target", f"name=b,url={slow.url}", "--target", f"name=a,url={fast.url}")
    run(tmp_path / "again", *turned, "--replay", tmp_path / "first", "--seed", 6, sizes=())
    before = [row["target"] for row in sorted(rows(tmp_path / "first"), key=lambda row: row["intended_ns"])]
    after = [row["target"] for row in sorted(rows(tmp_path / "again"), key=lambda row: row["intended_ns"])]
    assert after == [1 - target for target in before], "by name: the second run has them the other way round"


def test_the_same_spec_deals_the_same(fast, slow, tmp_path):
    targets = ("--target", f"name=a,url={fast.url}", "--target", f"name=b,url={slow.url}")
    run(tmp_path / "first", *targets, "--concurrency", 4, "--requests", 40)
    run(tmp_path / "again", "--spec", tmp_path / "first")
    one, other = ({row["request_id"]: row["target"] for row in rows(tmp_path / name)} for name in ("first", "again"))
    assert one == other


def test_an_endpoint_that_refuses_is_named_before_the_start_and_in_the_verdict(fast, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        targets = ("--target", f"name=up,url={fast.url},model=base", "--target", f"name=down,url={url},model=base")
        refused = typed("run", *targets, "--out", tmp_path / "no", "--concurrency", 2, "--requests", 4)
        assert refused.returncode == 1
        assert "down at http://127.0.0.1:" in refused.stderr
        told = run(tmp_path / "run", *targets, "--no-check", "--concurrency", 4, "--requests", 60)
    up, down = told["stages"][0]["by_target"]
    assert up["requests"]["failed"] == 0
    assert down["requests"]["failed"] == down["requests"]["sent"] > 0
    assert down["requests"]["errors"] == {"connect-refused": down["requests"]["sent"]}
    reasons = {reason["code"]: reason["words"] for reason in told["verdict"]["reasons"]}
    assert f"down: all {down['requests']['sent']:,} requests failed" in reasons["target-errors"]


def test_each_key_goes_to_its_own_target_and_nowhere_else(tmp_path, monkeypatch):
    keys = {"ONE_KEY": "sk-one-0123456789", "OTHER_KEY": "sk-other-0123456789"}
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    with (
        serve("--model", "base", "--api-key-env", "ONE_KEY") as one,
        serve("--model", "base", "--api-key-env", "OTHER_KEY") as other,
    ):
        pairs = [(one, "ONE_KEY"), (other, "OTHER_KEY")]
        targets = [("--target", f"name={variable},url={at.url},api_key_env={variable}") for at, variable in pairs]
        told = run(tmp_path / "run", *targets[0], *targets[1], "--concurrency", 2, "--requests", 20, page=True)
        crossed = [
            ("--target", f"name={at.url},url={at.url},api_key_env={variable}")
            for at, variable in ((one, "OTHER_KEY"), (other, "OTHER_KEY"))
        ]
        refused = typed("run", *crossed[0], *crossed[1], "--out", tmp_path / "no", "--requests", 2)
    assert [part["requests"]["failed"] for part in told["stages"][0]["by_target"]] == [0, 0]
    assert refused.returncode == 1
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    for key in keys.values():
        assert key.encode() not in written
        assert key not in told["stdout"] + told["stderr"] + refused.stderr + refused.stdout


def test_every_host_that_is_not_this_machine_is_asked_about(fast, tmp_path):
    elsewhere = ("--target", "url=http://192.0.2.1,model=m", "--target", "url=http://192.0.2.2,model=m")
    ended = typed("run", "--target", f"url={fast.url}", *elsewhere, "--out", tmp_path / "run", "--requests", 2)
    assert ended.returncode == 2
    assert "192.0.2.1, 192.0.2.2 are not this machine" in ended.stderr


def test_the_plan_of_several_targets_is_told(fast):
    ended = typed("plan", "--url", fast.url, "--model", "a=3", "--model", "b", "--rate", 20, "--duration", "5s")
    assert ended.returncode == 0, ended.stderr
    assert "targets: a 75.0 %, b 25.0 %" in ended.stdout
