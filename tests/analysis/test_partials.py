"""What several machines count, put together, is what one would have counted."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes_run import OFFSETS_NS, apart, write_nodes
from strategies import runs_of_requests, seldom
from synthetic import START_NS, S, mark, stage_plan

from analysis import partials, summary
from analysis.captures import open_run
from loadgen.schema import CaptureError


def counted_apart(driver, machines):
    """The analysis of machines that keep their captures to themselves; what is sent is bytes."""
    run = partials.gathered(driver, [partials.heads(machine, node) for node, machine in enumerate(machines)])
    ordered = partials.order(run)
    counted = [partials.tallies(machine, ordered, node) for node, machine in enumerate(machines)]
    return run, counted


def test_nodes_that_count_for_themselves_give_the_bytes_of_one_machine(tmp_path):
    nodes = write_nodes(tmp_path / "run")
    one = summary.analyse(tmp_path / "run")
    driver, machines = apart(tmp_path / "run", tmp_path / "apart", nodes)
    run, counted = counted_apart(driver, machines)
    assert not (driver / "capture").exists()
    several = summary.finished(run, counted)
    assert summary.as_text(several.summary) == summary.as_text(one.summary)
    assert several.log == one.log
    assert several.log_start_s == one.log_start_s
    assert several.details == one.details
    requests = [stage["requests"] for stage in one.summary["stages"]]
    assert [told["completed"] for told in requests] == [300, 140]
    assert requests[1]["errors"] == {"http-503": 20}
    assert [told["sent"] for told in one.summary["stages"][0]["by_node"]] == [100, 100, 100]


def test_the_order_in_which_the_parts_arrive_does_not_matter(tmp_path):
    nodes = write_nodes(tmp_path / "run")
    driver, machines = apart(tmp_path / "run", tmp_path / "apart", nodes)
    run, counted = counted_apart(driver, machines)
    backwards = summary.finished(run, counted[::-1])
    assert summary.as_text(backwards.summary) == summary.as_text(summary.finished(run, counted).summary)


@seldom
@given(every=runs_of_requests, nodes=st.integers(1, 4))
def test_any_requests_dealt_to_any_number_of_nodes_count_the_same(tmp_path_factory, every, nodes):
    folder = tmp_path_factory.mktemp("dealt")
    plans, marks = [stage_plan()], [mark()]
    write_nodes(folder / "run", [(7 * node - 9) * S for node in range(nodes)], 1, every, plans, marks)
    driver, machines = apart(folder / "run", folder / "apart", range(nodes))
    several = summary.finished(*counted_apart(driver, machines))
    assert summary.as_text(several.summary) == summary.as_text(summary.summarize(folder / "run"))


def test_clocks_that_are_hours_apart_change_no_number_of_the_summary(tmp_path):
    write_nodes(tmp_path / "apart")
    write_nodes(tmp_path / "together", [0] * len(OFFSETS_NS))
    apart_, together = summary.summarize(tmp_path / "apart"), summary.summarize(tmp_path / "together")
    assert summary.as_text(apart_) == summary.as_text(together)


def test_a_node_whose_part_is_missing_is_not_left_out_in_silence(tmp_path):
    nodes = write_nodes(tmp_path / "run")
    run, counted = counted_apart(*apart(tmp_path / "run", tmp_path / "apart", nodes))
    with pytest.raises(CaptureError, match="do not hold each capture once: see worker 4"):
        summary.finished(run, counted[:2])
    with pytest.raises(CaptureError, match="do not hold each capture once"):
        summary.finished(run, [*counted, counted[0]])


def test_a_lost_node_is_a_reported_loss_of_its_workers_and_the_others_count_in_full(tmp_path):
    nodes = write_nodes(tmp_path / "run")
    driver, machines = apart(tmp_path / "run", tmp_path / "apart", nodes)
    left = summary.finished(*counted_apart(driver, machines[:2])).summary
    assert left["capture"]["missing_workers"] == [4, 5]
    by_node = left["stages"][0]["by_node"]
    assert [(told["node"], told["workers"], told["sent"]) for told in by_node] == [(0, 2, 100), (1, 2, 100), (2, 0, 0)]
    assert "worker-missing" in [reason["code"] for reason in left["verdict"]["reasons"]]


def test_a_capture_that_shrank_between_the_passes_is_refused(tmp_path):
    nodes = write_nodes(tmp_path / "run")
    driver, machines = apart(tmp_path / "run", tmp_path / "apart", nodes)
    run = partials.gathered(driver, [partials.heads(machine, node) for node, machine in enumerate(machines)])
    victim = machines[1] / "capture" / "worker-02.arrow"
    victim.write_bytes(victim.read_bytes()[:-4000])
    with pytest.raises(CaptureError, match="less than when it was looked at first"):
        partials.tallies(machines[1], partials.order(run), 1)
    victim.unlink()
    with pytest.raises(CaptureError, match="no capture of worker 2"):
        partials.tallies(machines[1], partials.order(run), 1)


def test_two_captures_of_one_worker_are_refused(tmp_path):
    write_nodes(tmp_path / "run", workers_a_node=1)
    stray = tmp_path / "run" / "capture" / "node-1" / "worker-01.arrow"
    (stray.parent.parent / "node-2" / "worker-01.arrow").write_bytes(stray.read_bytes())
    with pytest.raises(CaptureError, match="two captures of worker 1"):
        open_run(tmp_path / "run")


def test_a_wrong_node_shows_in_its_row_with_how_sure_its_clock_is(tmp_path):
    write_nodes(tmp_path / "run")
    told = summary.summarize(tmp_path / "run")["stages"][0]["by_node"][2]
    assert (told["name"], told["clock_uncertainty_us"]) == ("host-2", 40.0)
    assert told["cpu_share"] == pytest.approx(0.6, abs=0.01), "of its busiest worker"


def test_a_run_of_one_machine_has_no_rows_of_nodes(run_dir):
    assert "nodes" not in json.loads((run_dir / "run.json").read_text())
    assert "by_node" not in summary.summarize(run_dir)["stages"][0]


def test_a_part_of_a_resumed_run_is_found_in_the_folder_of_its_node(tmp_path):
    write_nodes(tmp_path / "run", [S], 1)
    capture = tmp_path / "run" / "capture" / "node-0"
    (capture / "part-2").mkdir()
    (capture / "worker-00.arrow").rename(capture / "part-2" / "worker-00.arrow")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    for one in (*facts["stages"], *facts["nodes"]):
        one["part"] = 2
    facts["nodes"].insert(0, {"node": 0, "name": "of the first part", "clock": [[0, 7 * S]]})
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    told = summary.summarize(tmp_path / "run")
    assert told["capture"]["parts"] == 2
    assert told["stages"][0]["requests"]["completed"] == 300
    assert told["stages"][0]["window"]["start_ns"] == START_NS
    assert [node["name"] for node in told["stages"][0]["by_node"]] == ["host-0"]


@pytest.fixture
def left_behind(tmp_path):
    """The summary of a run, and the directory of the same run whose captures stayed on the nodes."""
    nodes = write_nodes(tmp_path / "run")
    driver, machines = apart(tmp_path / "run", tmp_path / "apart", nodes)
    told = [partials.heads(machine, node) for node, machine in enumerate(machines)]
    ordered = partials.order(partials.gathered(driver, told))
    for node, machine in enumerate(machines):
        partials.keep(driver, node, told[node], partials.tallies(machine, ordered, node))
    return summary.as_text(summary.summarize(tmp_path / "run")), driver


def test_a_run_whose_captures_stay_on_the_nodes_is_reported_from_what_those_counted(left_behind):
    whole, driver = left_behind
    assert summary.as_text(summary.report(driver)) == whole
    assert summary.as_text(summary.read(driver)) == whole
    assert not list(driver.rglob("*.arrow"))
    assert not list(driver.rglob("*.part"))


def test_captures_that_came_after_all_are_read_in_place_of_what_was_counted(left_behind, tmp_path):
    whole, driver = left_behind
    for victim in driver.rglob("counted.*"):
        victim.write_bytes(b"not looked at")
    for capture in (tmp_path / "run" / "capture").rglob("*.arrow"):
        (driver / capture.relative_to(tmp_path / "run")).write_bytes(capture.read_bytes())
    assert summary.as_text(summary.summarize(driver)) == whole


def test_who_needs_the_captures_themselves_is_told_where_they_are(left_behind):
    _, driver = left_behind
    facts = json.loads((driver / "run.json").read_text())
    facts["nodes"][0]["captures"] = "host-0:/var/run-1"
    facts["nodes"][1]["captures"] = "s3://bucket/run-1"
    (driver / "run.json").write_text(json.dumps(facts))
    with pytest.raises(CaptureError, match=r"copy them from host-0:/var/run-1 .to capture/node-0., s3://bucket/run-1"):
        open_run(driver)


def test_what_was_counted_for_other_clocks_is_not_put_together(left_behind):
    """Offsets that are corrected later move the window, and what was counted within the old one is of no use."""
    _, driver = left_behind
    facts = json.loads((driver / "run.json").read_text())
    facts["nodes"][0]["clock"] = [[START_NS, 5_000_000]]
    (driver / "run.json").write_text(json.dumps(facts))
    with pytest.raises(CaptureError, match="stage 0 was counted for another window"):
        summary.summarize(driver)


def test_of_a_stage_that_a_later_part_made_again_the_first_try_does_not_count(tmp_path):
    """Part 1 has both stages, part 2 the second one once more, on a node of its own."""
    run_dir = tmp_path / "run"
    write_nodes(run_dir, [S], 1)
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(run_dir / "run.json", kept)
    told = partials.heads(run_dir)
    partials.keep(kept, 0, told, partials.tallies(run_dir, partials.order(partials.gathered(kept, [told]))))
    facts = json.loads((run_dir / "run.json").read_text())
    facts["stages"][1]["part"] = 2
    facts["nodes"].append(facts["nodes"][0] | {"part": 2})
    for folder in (run_dir, kept):
        (folder / "run.json").write_text(json.dumps(facts))
    again = run_dir / "capture" / "node-0" / "part-2" / "worker-00.arrow"
    again.parent.mkdir()
    shutil.copy(run_dir / "capture" / "node-0" / "worker-00.arrow", again)
    alone = tmp_path / "second"
    (alone / "capture" / "part-2").mkdir(parents=True)
    shutil.copy(again, alone / "capture" / "part-2")
    second = partials.heads(alone)
    ordered = partials.order(partials.gathered(kept, [told, second]))
    with pytest.raises(CaptureError, match="holds no capture of worker 0 in part 1"):
        partials.tallies(alone, ordered, 0)
    partials.keep(kept, 0, second, partials.tallies(alone, ordered, 0, part=2), part=2)
    assert summary.as_text(summary.summarize(kept)) == summary.as_text(summary.summarize(run_dir))
