from synthetic import START_NS, S, file_facts, mark, open_plan, stage_plan

from analysis.captures import Capture
from analysis.window import Mark, Window, stage_marks, stage_window


def at(seconds: float) -> int:
    return START_NS + round(seconds * S)


def told(
    worker: int = 0,
    measure: float | None = 1.0,
    stop: float | None = None,
    idle: float | None = None,
    done: float | None = None,
    cut: float | None = None,
) -> Mark:
    optional = [None if seconds is None else at(seconds) for seconds in (measure, stop, idle, done, cut)]
    return Mark(worker, START_NS, *optional)


def span(window: Window) -> tuple[float, float]:
    return (window.start_ns - START_NS) / S, (window.stop_ns - START_NS) / S


BY_REQUESTS = stage_plan(duration_s=None, requests=100)
BY_DURATION = stage_plan()


def test_a_stage_bounded_by_a_duration_counts_until_sending_ended():
    window = stage_window(BY_DURATION, [told(stop=10, idle=9.5, done=11), told(1, stop=10, idle=9.9, done=12)])
    assert span(window) == (1, 10)
    assert window.end_ns == at(12)
    assert "the end of sending" in window.rule


def test_an_interrupted_stage_counts_until_the_first_worker_stopped_sending():
    marks = [told(stop=4, done=4.5), told(1, stop=3.9, done=4.5)]
    assert span(stage_window(BY_DURATION, marks)) == (1, 3.9)
    assert span(stage_window(BY_REQUESTS, marks)) == (1, 3.9)


def test_a_stage_bounded_by_requests_counts_until_the_first_slot_is_idle():
    window = stage_window(BY_REQUESTS, [told(idle=8, done=9), told(1, idle=7, done=10)])
    assert span(window) == (1, 7)
    assert "nothing left to send" in window.rule


def test_with_both_bounds_the_earlier_one_counts():
    both = stage_plan(duration_s=10.0, requests=100)
    assert span(stage_window(both, [told(stop=10, idle=6, done=7)])) == (1, 6)
    assert span(stage_window(both, [told(stop=5, idle=6, done=7)])) == (1, 5)


def test_with_fewer_requests_than_slots_the_whole_stage_counts():
    few = stage_plan(duration_s=None, requests=3, load={"mode": "concurrency", "value": 8})
    window = stage_window(few, [told(measure=0, idle=0.001, done=2)])
    assert span(window) == (0, 2)
    assert "fewer requests than slots" in window.rule


def test_a_stage_that_ended_within_its_warm_up_has_an_empty_window():
    window = stage_window(BY_REQUESTS, [told(measure=5, idle=2, done=3)])
    assert window.length_ns == 0


def test_a_warm_up_that_never_ended_in_some_worker_leaves_an_empty_window():
    window = stage_window(BY_REQUESTS, [told(idle=2, done=3), told(1, measure=None, done=4)])
    assert window.length_ns == 0
    assert window.end_ns == at(4)
    assert "warm-up never ended" in window.rule
    assert stage_window(BY_REQUESTS, [told(measure=None)]).length_ns == 0


def test_workers_whose_warm_up_ends_apart_are_counted_from_the_last_one_on():
    assert span(stage_window(BY_DURATION, [told(measure=1.25, stop=10), told(1, measure=1.5, stop=10)])) == (1.5, 10)


def test_an_open_loop_stage_counts_until_the_end_of_its_arrivals():
    """A worker is idle between two arrivals, and sends those that wait after the end."""
    for plan in (open_plan(), open_plan(requests=1_000), open_plan(sessions=100, load_unit="session")):
        window = stage_window(plan, [told(stop=10, idle=9, done=14), told(1, stop=10, idle=9.5, done=12)])
        assert span(window) == (1, 10)
        assert window.end_ns == at(14)
        assert "the end of the arrivals" in window.rule
        assert "due inside the window" in window.rule


def test_a_stage_bounded_by_sessions_counts_until_the_first_slot_is_idle():
    plan = stage_plan(duration_s=None, sessions=100, load={"mode": "concurrency", "value": 8, "unit": "session"})
    assert span(stage_window(plan, [told(idle=8, done=9), told(1, idle=7, done=10)])) == (1, 7)
    few = plan | {"sessions": 3}
    assert span(stage_window(few, [told(measure=0, idle=0.001, done=2)])) == (0, 2)


def test_a_cut_worker_ends_the_window_at_its_last_sign_of_life():
    window = stage_window(BY_DURATION, [told(stop=10, done=11), told(1, stop=10, cut=6)])
    assert span(window) == (1, 6)
    assert "cut" in window.rule


def test_a_worker_cut_after_the_window_does_not_shorten_it():
    assert span(stage_window(BY_DURATION, [told(stop=10, cut=10.5)])) == (1, 10)


def test_without_any_mark_the_last_thing_known_ends_the_window():
    assert span(stage_window(BY_REQUESTS, [told(done=9)])) == (1, 9)
    assert span(stage_window(BY_REQUESTS, [told(cut=4)])) == (1, 4)


def test_a_stage_that_no_worker_began_has_no_window():
    assert stage_window(BY_DURATION, []) is None


def capture(marks: list[list[dict]], closed: bool, samples: list[list[int]] | None = None) -> Capture:
    watches = [{"stages": stages, "samples": samples or []} for stages in marks]
    return Capture(None, 1, 0, file_facts([]), watches, len(watches), 0, closed)


def test_the_last_word_of_a_worker_on_a_stage_counts():
    early, late = mark(idle_ns=None, done_ns=None), mark()
    (found,) = stage_marks([capture([[early], [late], [late, mark(1)]], closed=True)], 0)
    assert found.done_ns == late["done_ns"]
    assert found.cut_ns is None


def test_only_the_stage_that_a_cut_worker_was_in_is_cut():
    cut = capture([[mark(0), mark(1, done_ns=None)]], closed=False, samples=[[at(3), 0, 0, 0]])
    assert stage_marks([cut], 0)[0].cut_ns is None
    assert stage_marks([cut], 1)[0].cut_ns == at(3)
    assert stage_marks([cut], 2) == []
