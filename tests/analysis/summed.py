"""What tests of summary.json say of a stage."""

from typing import Any

import pytest
import reference

from analysis import summary
from analysis.latencies import PERCENTILES

LATENCIES = ("ttft", "ttft_intended", "ttfa", "tpot", "e2e", "e2e_intended", "end_of_stream", "connect")


def only_stage(run_dir) -> dict[str, Any]:
    (stage,) = summary.summarize(run_dir)["stages"]
    return stage


def same(told: dict[str, Any] | None, values: list[int]) -> bool:
    """Whether a percentile block is that of these ns values; an empty one is null."""
    if not values or told is None:
        return told is None and not values
    assert told["count"] == len(values)
    assert told["min"] == pytest.approx(min(values) / 1e6, abs=1e-6)
    assert told["max"] == pytest.approx(max(values) / 1e6, abs=1e-6)
    assert told["mean"] == pytest.approx(sum(values) / len(values) / 1e6, abs=1e-6)
    for name, percentile in PERCENTILES.items():
        assert told[name] == pytest.approx(reference.nearest_rank(values, percentile) / 1e6, rel=1e-12, abs=1e-6)
    return True


def accounts_are_even(stage: dict[str, Any]) -> None:
    """The identities that summary.json promises."""
    told = stage["requests"]
    assert told["sent"] == told["completed"] + told["failed"] + told["cancelled"]
    assert sum(told["errors"].values()) == told["failed"]
    assert not {"cancelled", "dropped"} & set(told["errors"])
    if told["offered"] is not None:
        assert told["offered"] == told["sent"] + told["dropped"]
        assert told["late"] <= told["sent"]
        assert len(stage["timeline"]["offered"]) == len(stage["timeline"]["sent"])
    assert sum(worker["sent"] for worker in stage["by_worker"]) == told["sent"]
    assert sum(one["count"] for one in stage["by_turn"] or []) <= told["sent"]


def in_ms(block: dict[str, Any] | None) -> dict[str, Any] | None:
    return block and {
        name: value / 1e3 if name not in ("count", "unreliable") else value for name, value in block.items()
    }


def by_timeline(stage: dict[str, Any]) -> float:
    line = stage["timeline"]
    first = round(-line["start_s"] / line["bin_s"])
    count = round(stage["window_s"] / line["bin_s"])
    assert len(line["output_tokens"]) == len(line["in_flight"]) == len(line["ttft_p50_ms"])
    return sum(line["output_tokens"][first : first + count])
