import json
from itertools import pairwise

import pytest
import reference

from analysis.captures import open_run
from analysis.exports import perfetto


def traced(run_dir, folder, sample):
    (path,) = perfetto.write(run_dir, folder, sample)
    return json.loads(path.read_text())["traceEvents"]


def slices(events, name):
    return [e for e in events if e["ph"] == "X" and e["name"].startswith(name)]


@pytest.fixture(scope="module")
def events(run_dir, tmp_path_factory):
    return traced(run_dir, tmp_path_factory.mktemp("perfetto"), 10_000)


def test_every_request_that_was_sent_is_a_slice_with_prefill_and_decode_inside(events, everything):
    sent = {r["request_id"]: r for r in everything if r.get("error") != "dropped"}
    found = {int(e["name"].split()[1]): e for e in slices(events, "request ")}
    assert set(found) == set(sent)
    assert len(slices(events, "to the first token")) == sum(bool(r["event_ns"]) for r in sent.values())
    assert len(slices(events, "decode")) == sum(len(r["event_ns"]) > 1 for r in sent.values())
    inner = {(e["pid"], e["tid"], e["ts"]): e for e in slices(events, "to the first token")}
    for number, one in found.items():
        if not sent[number]["event_ns"]:
            continue
        prefill = inner[one["pid"], one["tid"], one["ts"]]
        assert prefill["dur"] == pytest.approx(reference.ttft(sent[number]) / 1e3)
        assert prefill["ts"] + prefill["dur"] <= one["ts"] + one["dur"] + 1e-6
    assert found[301]["args"]["error"] == "http-503"


def test_no_two_requests_share_a_track_at_one_time(events):
    tracks = {}
    for one in slices(events, "request "):
        tracks.setdefault((one["pid"], one["tid"]), []).append((one["ts"], one["ts"] + one["dur"]))
    for spans in tracks.values():
        assert spans == sorted(spans)
        assert all(end <= begin + 1e-6 for (_, end), (begin, _) in pairwise(spans))
    names = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert names == set(tracks)


def test_a_sample_has_so_many_requests_from_all_over_the_run_and_is_the_same_each_time(run_dir, tmp_path):
    first, second = (slices(traced(run_dir, tmp_path, 60), "request ") for _ in range(2))
    assert first == second
    assert len(first) == 60
    begins = sorted(one["ts"] / 1e6 for one in first)
    for half in range(0, 10, 5):
        assert any(half <= begin < half + 5 for begin in begins)
        assert any(20 + half <= begin < 25 + half for begin in begins)


def test_counters_of_the_load_stand_beside(events, run_dir):
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert counters == {"output tokens/s", "in flight"}
    assert len(open_run(run_dir).captures) == 1
