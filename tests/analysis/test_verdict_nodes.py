"""Doubts about the machines of a run."""

import pytest

from analysis.verdict import cut_captures, verdict
from analysis.verdict.nodes import clocks_unsure, lost_nodes, slow_node


def node(number, **changes):
    facts = {"node": number, "name": f"host-{number}", "workers": 2, "lag_p99_us": 90.0, "lateness_p99_us": 40.0}
    return facts | {"clock_uncertainty_us": 80.0, "lost": None} | changes


def stage(*nodes, bin_s=0.1):
    return {"by_node": list(nodes), "timeline": {"bin_s": bin_s}}


@pytest.mark.parametrize(("name", "what"), [("lag_p99_us", "reads"), ("lateness_p99_us", "sends")])
def test_a_node_that_is_far_later_than_the_others_is_named(name, what):
    doubt = slow_node(stage(node(0), node(1, **{name: 5000.0}), node(2)))
    assert doubt.code == "slow-node"
    assert f"node 1 (host-1) is slow: its {what} were 5.00 ms late" in doubt.words
    assert "node 0" not in doubt.words


def test_nodes_that_are_late_together_or_not_at_all_are_not():
    late = {"lag_p99_us": 5000.0, "lateness_p99_us": 6000.0}
    assert slow_node(stage(*(node(number, **late) for number in range(3)))) is None
    assert slow_node(stage(node(0), node(1, lag_p99_us=600.0), node(2))) is None, "not a millisecond"
    assert slow_node(stage(node(0, lag_p99_us=5000.0))) is None, "there is no other"
    assert slow_node(stage(node(0), node(1, lag_p99_us=None, lateness_p99_us=None))) is None
    assert slow_node({"timeline": {"bin_s": 1.0}}) is None, "one machine"


def test_a_node_that_was_lost_is_told_with_its_share_and_why():
    summary = {
        "nodes": [node(0), node(1, lost="the connection was closed")],
        "capture": {"workers": 4, "requests": 1234},
    }
    doubt = lost_nodes(summary)
    assert doubt.code == "node-lost"
    for words in ("1 of 2 nodes", "50.0% of the load", "node 1 (host-1): the connection was closed", "1,234"):
        assert words in doubt.words
    assert lost_nodes(summary | {"nodes": [node(0), node(1)]}) is None
    assert lost_nodes({"capture": {"workers": 4}}) is None


def told_of(summary):
    return [
        reason["code"]
        for reason in verdict({"question": None, "spec": None, "throttled_ms": 0, "stages": []} | summary)["reasons"]
    ]


def test_a_capture_that_was_cut_with_its_node_is_told_once_and_that_of_another_node_besides():
    capture = {"workers": 4, "requests": 1234, "cut_requests": 9, "missing_workers": [], "unpinned_workers": []}
    capture |= {"stages_begun": 1, "stages_planned": 1, "cut_workers": [2, 3]}
    summary = {
        "nodes": [node(0), node(1, lost="the connection was closed")],
        "capture": capture,
        "ended": {"reason": "finished", "words": ""},
    }
    assert told_of(summary) == ["node-lost"]
    assert told_of(summary | {"nodes": [node(0), node(1)]}) == ["capture-cut"]
    one_more = summary | {"capture": capture | {"cut_workers": [1, 2, 3]}}
    assert told_of(one_more) == ["node-lost", "capture-cut"]
    assert cut_captures(one_more).words.startswith("1 of 4 workers did not close their capture (worker 1)")
    assert told_of(summary | {"ended": None}) == ["run-killed", "node-lost"], "the end of the run is no node's matter"


def test_clocks_that_are_not_known_to_half_a_bin_are_doubted():
    doubt = clocks_unsure(stage(node(0), node(1, clock_uncertainty_us=60_000.0)))
    assert doubt.code == "clocks-unsure"
    assert "node 1 (host-1) is known to 60.0 ms" in doubt.words
    assert clocks_unsure(stage(node(0), node(1, clock_uncertainty_us=40_000.0))) is None
    assert clocks_unsure(stage(node(0, clock_uncertainty_us=None))) is None
    assert clocks_unsure({"timeline": {"bin_s": 1.0}}) is None
