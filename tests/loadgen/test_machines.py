"""How many machines a load needs, against arithmetic done here."""

import json
import re
import shlex
from pathlib import Path
from statistics import median

import pytest
from asked import spec, typed

from loadgen import planner, recipes
from loadgen.errors import UsageError
from loadgen.forecast import CONNECTION_BYTES, EVENT_BYTES, ROW_BYTES, WORKER_BYTES, Expected, forecast
from loadgen.machines import (
    GATHERED_BYTES,
    INPUT_TOKEN_BYTES,
    MOST_CPU_SHARE,
    MOST_MEMORY_SHARE,
    REQUEST_CPU_US,
    REQUEST_WIRE_BYTES,
    TOKEN_ACK_BYTES,
    TOKEN_WIRE_BYTES,
    TOKENS_PER_S_A_CORE,
    Carried,
    Machine,
    needs,
    parse_machine,
)

# A request takes a second: half of it to the first token, and 10 ms for each of 50 others.
EXPECTED = Expected(ttft_s=0.5, tpot_s=0.01)
CARRIED = Carried(10_000, "said here")
LARGE = Machine(cores=9, memory_bytes=10**12, ports=10**6, descriptors=10**6)


def told(**changes):
    asked = spec(**{"input_tokens": 100, "output_tokens": 51, **changes})
    planned = planner.schedules(asked)
    plans = [planner.worker_stages(asked, planned, 0, 1, 10**6)]
    return forecast(asked, planned, plans, [planner.pool(asked, "sim")], EXPECTED, recipes.means(asked, 1))


def loop(concurrency, **changes):
    return told(concurrency=concurrency, requests=None, duration_s=10.0, **changes)


def by_name(found):
    return {need.name: need for need in found.needs}


def test_cores_are_for_tokens_and_for_requests():
    found = needs(loop(1000), LARGE, workers=8, carried=CARRIED)
    cores = by_name(found)["cores"]
    # 1,000 requests and 51,000 tokens a second.
    assert cores.needed == pytest.approx(5.1 + 1000 * REQUEST_CPU_US / 1e6 / MOST_CPU_SHARE)
    assert (cores.a_machine, cores.machines) == (8, 1)
    more = needs(loop(10_000), LARGE, workers=8, carried=CARRIED)
    assert by_name(more)["cores"].machines == more.machines == 7
    assert more.limit.name == "cores"


def test_every_resource_can_be_the_limit():
    asked = loop(1000)
    tight = {
        "ports": Machine(9, ports=300),
        "descriptors": Machine(9, descriptors=64 + 40),
        "memory": Machine(9, memory_bytes=int((8 * (WORKER_BYTES + asked.pool_bytes) + 10**7) / MOST_MEMORY_SHARE)),
        "network in": Machine(9, network_bytes_per_s=5e6),
        "disk": Machine(9, disk_bytes_per_s=1e5),
    }
    for name, machine in tight.items():
        found = needs(asked, machine, workers=8, carried=CARRIED)
        assert found.limit.name == name
        assert found.machines == by_name(found)[name].machines > 1
    assert by_name(needs(asked, tight["ports"], 8, CARRIED))["ports"].machines == 4
    assert by_name(needs(asked, tight["descriptors"], 8, CARRIED))["descriptors"].machines == 4, "320 places each"
    assert by_name(needs(asked, tight["memory"], 8, CARRIED))["memory"].machines == 3


def test_what_goes_over_the_network_and_to_the_disk():
    found = by_name(needs(loop(1000), LARGE, workers=8, carried=CARRIED))
    assert found["network in"].needed == 51_000 * TOKEN_WIRE_BYTES + 1000 * REQUEST_WIRE_BYTES
    out = 100_000 * INPUT_TOKEN_BYTES + 51_000 * TOKEN_ACK_BYTES + 1000 * REQUEST_WIRE_BYTES
    assert found["network out"].needed == out
    assert found["disk"].needed == 51_000 * EVENT_BYTES + 1000 * ROW_BYTES
    assert found["memory"].needed == 1000 * CONNECTION_BYTES
    assert found["disk"].machines is None, "nobody said what its disk takes"


def test_the_stage_that_takes_most_decides_and_the_results_are_of_all():
    found = needs(loop((10, 5000, 100)), LARGE, workers=8, carried=CARRIED)
    assert found.stage == 1
    assert found.driver_bytes == (10 + 5000 + 100) * 10 * GATHERED_BYTES


def test_a_load_that_changes_is_taken_at_its_height():
    (stage,) = told(rate=("10..1000@60s",), arrivals="constant", requests=None, duration_s=60.0).stages
    # The last ten seconds of a line from 10 to 1,000 a second.
    assert stage.requests_per_s == pytest.approx(917, rel=0.01)
    assert stage.output_tokens_per_s == pytest.approx(51 * 917, rel=0.01)
    assert stage.connections == pytest.approx(918, rel=0.01)
    (stage,) = told(concurrency="10..1000@60s", requests=None, duration_s=60.0).stages
    assert stage.requests_per_s == stage.connections == 1000


def test_places_in_flight_bound_what_an_open_loop_gets():
    (stage,) = told(rate=(1000.0,), arrivals="constant", requests=None, duration_s=10.0, max_in_flight=50).stages
    assert (stage.connections, stage.requests_per_s) == (50, 50.0)


def test_an_answer_expected_at_once_breaks_nothing():
    asked = spec(concurrency=(4,), requests=None, duration_s=1.0, input_tokens=1, output_tokens=1)
    planned = planner.schedules(asked)
    plans = [planner.worker_stages(asked, planned, 0, 1, 100)]
    at_once = Expected(0.0, 0.0)
    told = forecast(asked, planned, plans, [planner.pool(asked, "sim")], at_once, recipes.means(asked, 1))
    assert needs(told, LARGE, 8, CARRIED).machines > 1


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("cores=32", Machine(32, None, 28_232, 1024)),
        ("cores=2,memory=64GB,network=25Gbit", Machine(2, 64 * 10**9, 28_232, 1024, 3.125e9)),
        ("memory=0.5GiB", Machine(4, 1 << 29, 28_232, 1024, 1.0, 2.0)),
        ("ports=64000, descriptors=1048576", Machine(4, 10**9, 64_000, 1_048_576, 1.0, 2.0)),
        ("disk=200MB/s,network=100Mbit/s", Machine(4, 10**9, 28_232, 1024, 12.5e6, 200e6)),
    ],
)
def test_a_machine_is_told_in_one_flag(text, machine):
    here = Machine(4, 10**9, 28_232, 1024, 1.0, 2.0)
    assert parse_machine(text, here) == machine


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("32", "'32' is not understood; allowed is KEY=VALUE with cores, memory"),
        ("core=3", "'core=3' is not understood"),
        ("cores=0", "cores='0' is no amount; allowed is a whole number from 1"),
        ("cores=1.5", "no whole number"),
        ("cores=-1", "is no amount"),
        ("memory=64", "memory='64' is no amount; allowed is a number with B, kB"),
        ("memory=64gb", "is no amount"),
        ("network=10GB", "network='10GB' is no amount; allowed is a number with Mbit, Gbit"),
        ("cores=2,cores=3", "cores is there twice"),
        ("", "'' is not understood"),
        ("cores=2,", "'' is not understood"),
    ],
)
def test_a_machine_that_is_none_is_refused_by_name(text, words):
    with pytest.raises(UsageError, match=r"^--machine: ") as refused:
        parse_machine(text, LARGE)
    assert words in str(refused.value)


def results(name, **wanted):
    """The rows of a benchmark, the oldest first."""
    lines = (Path(__file__).parents[2] / "benchmarks" / "results" / f"{name}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def test_what_is_reckoned_with_is_what_was_measured():
    carried = [
        row for row in results("accuracy", case="1000-lock-step", transport="kernel") if not row["coalesced_share"]
    ]
    assert TOKENS_PER_S_A_CORE <= max(row["tokens_per_s"] for row in carried) < 1.02 * TOKENS_PER_S_A_CORE
    few, many = (
        results(
            "pacing", case="lateness", arrivals="constant", rate_per_s=1000, spin=False, output_tokens_per_s=tokens
        )[-3:]
        for tokens in (1000, 20_000)
    )
    token_us = [
        (of_many["cpu_share"][0] - of_few["cpu_share"][0]) * 1e6 / 19_000
        for of_few, of_many in zip(few, many, strict=True)
    ]
    request_us = [row["cpu_share"][0] * 1000 - one for row, one in zip(few, token_us, strict=True)]
    assert median(request_us) == pytest.approx(REQUEST_CPU_US, rel=0.05), "one hour's figure is 15 % off another's"
    wire, memory, gathering = (results("limits", case=case)[-1] for case in ("wire", "memory", "gathering"))
    # Two packets a token, 66 bytes of heads each; 38 more where they go over an Ethernet.
    acked = 66 * (wire["packets_a_token"] - 1)
    assert wire["wire_bytes_a_token"] - acked + 38 == pytest.approx(TOKEN_WIRE_BYTES, rel=0.05)
    assert acked + 38 == pytest.approx(TOKEN_ACK_BYTES, rel=0.1)
    assert 2 * wire["capture_bytes_a_token"] >= EVENT_BYTES >= wire["capture_bytes_a_token"]
    assert memory["bytes_a_connection"] <= CONNECTION_BYTES, "the rest is the kernel's"
    bare_bytes = memory["worker_peak_rss_mb"]["500"] * 1e6 - 500 * memory["bytes_a_connection"]
    assert bare_bytes == pytest.approx(WORKER_BYTES, rel=0.05)
    assert gathering["gather_bytes_a_request"] == pytest.approx(GATHERED_BYTES, rel=0.05)


URL = ("--url", "http://127.0.0.1:9")


def test_the_plan_says_how_many_machines_and_what_the_limit_is(tmp_path):
    load = ("--concurrency", "1000000", "--duration", "60s", "--output-tokens", "500")
    large = "cores=64,memory=256GB,network=25Gbit,disk=1GB,ports=64000,descriptors=1048576"
    ended = typed("plan", *URL, *load, "--machine", large, XDG_CACHE_HOME=str(tmp_path))
    assert ended.returncode == 0, ended
    for words in (
        "16 machines (64 cores, 63 of them with a worker)",
        "cores <- the limit",
        "49,000 tokens/s: docs/scale.md",
    ):
        assert words in ended.stdout
    ended = typed("plan", *URL, *load, "--machine", large, "--json")
    facts = json.loads(ended.stdout)["machines"]
    assert (facts["machines"], facts["limit"], facts["workers_a_machine"]) == (16, "cores", 63)
    assert {need["name"] for need in facts["needs"]} >= {
        "cores",
        "ports",
        "descriptors",
        "memory",
        "network in",
        "disk",
    }


def test_the_example_of_the_docs_comes_to_what_they_say(tmp_path):
    docs = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    loadgen (plan --url http.*\n.*)$", docs, re.MULTILINE)
    ended = typed(*shlex.split(command.replace("\\\n", " ")), "--json", XDG_CACHE_HOME=str(tmp_path))
    assert ended.returncode == 0, ended
    facts = json.loads(ended.stdout)["machines"]
    assert (facts["machines"], facts["limit"]) == (16, "cores")
    by_name = {need["name"]: need["needed"] for need in facts["needs"]}
    assert round(by_name["cores"]) == 997
    assert by_name["network in"] / 1e9 == pytest.approx(15.4, abs=0.1)
    assert by_name["disk"] / 1e6 == pytest.approx(290, abs=5)
    assert "**16 machines**" in docs
    assert "997 / 63" in docs


def test_the_floor_of_this_machine_is_used_where_the_doctor_found_one(tmp_path):
    from loadgen import __version__, host
    from loadgen.doctor import floor

    floor.keep(
        tmp_path / "loadgen",
        floor.key(host.facts(), __version__),
        {"at": "2026-11-24T08:00:00+00:00", "tokens_per_s_a_core": 12_345, "limit": None},
    )
    ended = typed("plan", *URL, "--rate", "20", "--duration", "10s", XDG_CACHE_HOME=str(tmp_path))
    assert ended.returncode == 0, ended
    assert "12,345 tokens/s: loadgen doctor on this machine, 2026-11-24T08:00:00+00:00, the most" in ended.stdout
    assert "1 machine (" in ended.stdout


def test_a_machine_that_is_none_is_a_bad_command():
    ended = typed("plan", *URL, "--rate", "1", "--duration", "5s", "--machine", "cores=none")
    assert ended.returncode == 2
    assert "--machine: cores='none' is no amount; allowed is a whole number from 1" in ended.stderr
    assert "Traceback" not in ended.stderr
