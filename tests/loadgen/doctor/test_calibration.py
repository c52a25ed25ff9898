"""What a calibration run comes to, and how it is told; that one is really made is tested end to end."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from loadgen.doctor import BAD, OK, WARN
from loadgen.doctor.calibration import Cores, chosen_cores, findings, floor_of, recommended_cores

STREAMS = (256, 512, 1024)
FULL_PER_S = 50  # tokens of a stream at a step of 20 ms


def stage(tokens_per_s: float = 0.0, coalesced: float | None = 0.0, cpu: float | None = 0.2) -> dict[str, Any]:
    late = {"p50": 20.0, "p99": 90.0}
    return {
        "output_tokens_per_s": tokens_per_s,
        "client": {"coalesced_share": coalesced, "cpu_share": [cpu], "lateness_us": late},
    }


def captured(lost: int = 0, late_ns: int = 4_000) -> tuple[pa.Table, pa.Table]:
    """(capture, truth): a response of four tokens a stage, the capture's of stage 1 with some lost."""
    true = {f"{i}": [1_000_000 * (i * 10 + k) for k in range(4)] for i in range(1, len(STREAMS) + 1)}
    events = [[at_ns + late_ns for at_ns in each] for each in true.values()]
    events[0] = events[0][: 4 - lost]
    capture = pa.table(
        {
            "stage": pa.array([int(name) for name in true], pa.uint16()),
            "error": pa.array([None] * len(true), pa.string()),
            "response_id": list(true),
            "sent_ns": pa.array([0] * len(true), pa.int64()),
            "event_ns": pa.array(events, pa.list_(pa.int64())),
        }
    )
    truth = pa.table(
        {
            "response_id": list(true),
            "request_read_ns": pa.array([0] * len(true), pa.int64()),
            "event_ns": pa.array(list(true.values()), pa.list_(pa.int64())),
        }
    )
    return capture, truth


def floor(*stages: dict[str, Any], **how: int) -> dict[str, Any]:
    summary = {"started_at": "2026-01-31T00:00:00+00:00", "stages": [stage(), *stages]}
    told = floor_of(summary, *captured(**how), STREAMS)
    return told | {"quick": False, "cores_apart": True, "workers": 2}


def whole(streams: int, **how: Any) -> dict[str, Any]:
    return stage(streams * FULL_PER_S, **how)


def told(made: dict[str, Any]) -> dict[str, Any]:
    return {finding.name: finding for finding in findings(made, [0, 1])}


def test_the_floor_is_the_error_at_the_lowest_level_and_the_most_that_was_carried():
    made = floor(whole(256), whole(512), whole(1024))
    assert made["stamp_error_us"]["p99"] == 4.0
    assert made["lateness_us"] == {"p50": 20.0, "p99": 90.0, "rate_per_s": 100}
    assert (made["tokens_per_s_a_core"], made["limit"]) == (1024 * FULL_PER_S, None)
    found = told(made)
    assert {finding.level for finding in found.values()} == {OK}
    assert found["tokens/s a core"].words == "at least 51,200: more was not tried"
    assert "about 102,400 tokens/s" in found["workers"].words


@pytest.mark.parametrize(
    ("how", "limit", "words"),
    [
        ({"coalesced": 0.02, "cpu": 0.9}, "events", "12,800; at 512 streams events shared their reads"),
        ({"cpu": 0.95}, "cpu", "12,800; at 512 streams the worker's core was more than 85% busy"),
    ],
)
def test_what_is_carried_ends_below_the_first_level_that_is_not(how, limit, words):
    made = floor(whole(256), whole(512, **how), whole(1024))
    assert (made["tokens_per_s_a_core"], made["limit"]) == (256 * FULL_PER_S, limit)
    assert told(made)["tokens/s a core"].words == words
    assert told(made)["tokens/s a core"].level == OK


def test_a_simulator_that_does_not_keep_up_is_named_as_the_limit():
    made = floor(whole(256), whole(512), stage(30_000.0))
    assert made["limit"] == "simulator"
    assert "the simulator did not keep up" in told(made)["tokens/s a core"].words


def test_late_reads_on_an_idle_core_are_a_disturbance_and_no_limit():
    finding = told(floor(whole(256), whole(512, coalesced=0.02, cpu=0.3), whole(1024)))["tokens/s a core"]
    assert finding.level == WARN
    assert "30% busy" in finding.words
    assert "quiet moment" in finding.todo


def test_a_machine_that_carries_not_even_the_lowest_level_is_bad():
    made = floor(whole(256, coalesced=0.5), whole(512), whole(1024))
    assert made["tokens_per_s_a_core"] is None
    assert told(made)["tokens/s a core"].level == BAD
    assert "tokens/s" not in told(made)["workers"].words


def test_a_lost_token_is_worse_than_any_delay():
    assert told(floor(whole(256), whole(512), whole(1024), lost=1))["accounts"].level == BAD


@pytest.mark.parametrize(("late_ns", "level"), [(40_000, OK), (300_000, WARN), (2_000_000, BAD)])
def test_the_stamp_error_is_judged(late_ns, level):
    assert told(floor(whole(256), whole(512), whole(1024), late_ns=late_ns))["stamp error"].level == level


def siblings(tree: Any) -> Path:
    """Four CPUs, two cores."""
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return tree({folder.format(cpu): f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)})


def test_server_and_client_have_a_core_each_where_there_are_two(tree):
    root = siblings(tree)
    assert chosen_cores([0, 1, 2, 3], root) == Cores(0, 1)
    assert chosen_cores([0, 2], root) == Cores(0, 2), "two siblings are better than one CPU"
    assert not chosen_cores([3], root).are_apart


def test_workers_are_recommended_by_physical_cores_and_quota(tree):
    root = siblings(tree)
    assert recommended_cores([0, 1, 2, 3], None, root) == [0, 1]
    assert recommended_cores([0, 1, 2, 3], 1.0, root) == [0]
