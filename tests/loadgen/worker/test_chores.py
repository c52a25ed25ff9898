"""Chores over a decoder and a pacer that the test sets, and a clock that moves when a piece is done."""

import pytest

from loadgen.clock import NS_PER_MS
from loadgen.worker import chores
from loadgen.worker.chores import MOST_PIECE_NS, MOST_WAITING, Chores
from loadgen.worker.pacer import NEVER


class Scene:
    """Clock, decoder, pacer and capture at once."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.waiting = 0
        self.due_ns = NEVER
        self.pieces = 0
        self.piece_ns = 100_000
        self.done: list[str] = []

    def decode_one(self) -> bool:
        self.done.append("decoded")
        self.now_ns += self.piece_ns
        self.waiting -= 1
        return self.waiting > 0

    @property
    def is_writing(self) -> bool:
        return self.pieces > 0

    def step(self) -> None:
        self.done.append("written")
        self.now_ns += self.piece_ns
        self.pieces -= 1


@pytest.fixture
def scene(monkeypatch):
    made = Scene()
    monkeypatch.setattr(chores, "monotonic_ns", lambda: made.now_ns)
    return made


def chores_of(scene: Scene, *, gives_way: bool = True) -> Chores:
    made = Chores(scene, scene, gives_way=gives_way)
    made.capture = scene
    return made


def test_it_says_when_nothing_waits(scene):
    made = chores_of(scene)
    assert not made.do_one()
    scene.waiting, scene.pieces = 2, 2
    while made.do_one():
        pass
    assert scene.done == ["written"] * 2 + ["decoded"] * 2
    assert not Chores(scene, scene, gives_way=True).do_one(), "without a capture there is nothing to write"


def test_a_piece_is_not_begun_shortly_before_something_is_due(scene):
    made = chores_of(scene)
    scene.waiting = 10
    made.do_one()  # now it knows how long a piece takes
    scene.due_ns = scene.now_ns + scene.piece_ns - 1
    assert made.do_one(), "there is more to do, later"
    assert len(scene.done) == 1
    scene.due_ns = scene.now_ns + scene.piece_ns
    made.do_one()
    assert len(scene.done) == 2


def test_what_is_overdue_does_not_keep_it_for_ever(scene):
    made = chores_of(scene)
    scene.waiting = MOST_WAITING + 5
    scene.due_ns = -1
    made.do_one()
    for _ in range(50):
        made.do_one()
    assert scene.waiting == MOST_WAITING - 1, "so much may gather, and no more"


def test_it_does_not_give_way_where_waiting_would_delay_the_stamp(scene):
    made = chores_of(scene, gives_way=False)
    scene.waiting, scene.due_ns = 5, 1
    for _ in range(5):
        made.do_one()
    assert scene.waiting == 0


def test_columns_and_responses_are_known_to_take_different_times(scene):
    made = chores_of(scene)
    scene.pieces, scene.piece_ns = 2, 300_000
    made.do_one()
    made.do_one()
    scene.waiting, scene.piece_ns = 2, 100_000
    made.do_one()
    scene.due_ns = scene.now_ns + 150_000
    made.do_one()
    assert scene.done == ["written"] * 2 + ["decoded"] * 2, "a column would not fit, a response does"


def test_one_long_piece_is_forgotten_in_time(scene):
    made = chores_of(scene)
    scene.waiting, scene.piece_ns = 1_000, 100 * NS_PER_MS
    made.do_one()
    scene.due_ns = scene.now_ns + MOST_PIECE_NS
    made.do_one()
    assert len(scene.done) == 2, "held up by something else: it never counts for more than this"
    scene.piece_ns = 1_000
    for _ in range(100):
        made.do_one()
    scene.waiting, before = 5, len(scene.done)
    scene.due_ns = scene.now_ns + 2_000
    made.do_one()
    assert len(scene.done) == before + 1
