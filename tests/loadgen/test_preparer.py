import json
import marshal
from collections import Counter

import pytest

from loadgen.dealing import deal
from loadgen.distribution import parse_distribution, parse_lengths
from loadgen.errors import UsageError
from loadgen.preparation import Speaking
from loadgen.preparer import Over, Preparer
from loadgen.ring import Ring
from loadgen.wording import Wording
from loadgen.workload.formats import reading
from loadgen.workload.script import Recipe
from loadgen.workload.traces import Course


def recipe(**changes) -> Recipe:
    fields = {"model": "m", "seed": 1, "ignore_eos": False, "most_turns": 1, "real_history": True}
    if "file" not in changes:
        fields |= {"input_tokens": parse_lengths("12"), "output_tokens": parse_lengths("5")}
    return Recipe(**fields | changes)


def file_of(tmp_path, rows):
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return reading(str(path), None, {})


class Readers:
    """The workers' ends of the rings, who take when the preparer looks up; `who` says which of them."""

    def __init__(self, recipe_: Recipe, workers: int, all_slots: int = 0, capacity: int = 1 << 16) -> None:
        self.rings = [Ring(capacity) for _ in range(workers)]
        self.taken: list[list[tuple]] = [[] for _ in range(workers)]
        self.stage, self.all_slots = 0, all_slots
        self.who = set(range(workers))
        self.enough = 1 << 62
        self.next_stage_after: int | None = None
        self.looks = 0
        for ring in self.rings:
            ring.want(0, all_slots)
        targets = [Speaking(recipe_.model, recipe_.ignore_eos, Wording("chat"))]
        self.preparer = Preparer(recipe_, targets, deal(1, [1.0]), self.rings, self.look)

    def look(self) -> None:
        self.looks += 1
        for worker in self.who:
            while (record := self.rings[worker].take(self.stage)) is not None:
                self.taken[worker].append(marshal.loads(record))
        count = sum(map(len, self.taken))
        if self.next_stage_after is not None:
            if count < self.next_stage_after:
                return
            self.next_stage_after, count = None, 0
            self.stage += 1
            self.taken = [[] for _ in self.taken]
            for ring in self.rings:
                ring.want(self.stage, self.all_slots)
        if count >= self.enough or all(ring.is_over(self.stage) for ring in self.rings) or self.looks > 100_000:
            raise Over

    def run(self) -> "Readers":
        with pytest.raises(Over):
            self.preparer.work()
        for ring in self.rings:
            ring.close()
        return self


@pytest.mark.parametrize(("workers", "all_slots"), [(1, 0), (3, 0), (1, 7), (3, 7), (2, 2), (3, 4)])
def test_units_are_dealt_as_the_workers_take_them_and_are_the_same_for_any_number_of_them(workers, all_slots):
    alone = Readers(recipe(), 1)
    alone.enough = 500
    expected = {unit[0]: unit for unit in alone.run().taken[0]}
    readers = Readers(recipe(), workers, all_slots)
    readers.enough = 500
    readers.run()
    for worker, taken in enumerate(readers.taken):
        numbers = [unit[0] for unit in taken]
        assert numbers == sorted(numbers)
        assert {(n % all_slots if all_slots else n) % workers for n in numbers} <= {worker}
        for unit in taken:
            if unit[0] in expected:
                assert unit == expected[unit[0]]
    assert sum(map(len, readers.taken)) >= 500


def test_closed_loop_units_are_those_that_the_slots_of_a_worker_have():
    """As in worker.closed_loop: number = worker + round * all slots + place * workers."""
    workers, all_slots = 3, 8
    readers = Readers(recipe(), workers, all_slots)
    readers.enough = 200
    readers.run()
    for worker, taken in enumerate(readers.taken):
        slots = len(range(worker, all_slots, workers))
        begun = [worker + n // slots * all_slots + n % slots * workers for n in range(len(taken))]
        assert [unit[0] for unit in taken] == begun


def test_a_worker_that_takes_nothing_does_not_starve_the_others_before_much_is_laid_by(monkeypatch):
    monkeypatch.setattr("loadgen.preparer.MOST_LAID_BY_BYTES", 200_000)
    readers = Readers(recipe(), 2, capacity=1 << 12)
    readers.who = {1}
    readers.enough = 300
    readers.run()
    assert len(readers.taken[1]) >= 300
    assert readers.preparer._laid_by_bytes > 0


def test_a_bounded_amount_is_laid_by(monkeypatch):
    monkeypatch.setattr("loadgen.preparer.MOST_LAID_BY_BYTES", 20_000)
    monkeypatch.setattr("loadgen.preparer.PAUSE_S", 0)
    readers = Readers(recipe(), 2, capacity=1 << 12)
    readers.who = {1}
    held = []
    look = readers.preparer._look

    def watch():
        held.append(readers.preparer._laid_by_bytes)
        if len(held) > 3000:
            raise Over
        look()

    readers.preparer._look = watch
    readers.run()
    assert 10_000 < max(held) < 22_000


def test_the_next_stage_begins_when_all_workers_ask_for_it_and_has_other_prompts():
    readers = Readers(recipe(), 2, capacity=1 << 12)
    readers.next_stage_after, readers.enough = 100, 60
    first = Readers(recipe(), 1, capacity=1 << 12)
    first.enough = 100
    of_first = {unit[5][0][2] for unit in first.run().taken[0]}
    readers.run()
    assert readers.stage == 1
    of_second = [unit for taken in readers.taken for unit in taken]
    assert sorted(unit[0] for unit in of_second)[:50] == list(range(50))
    assert not of_first & {unit[5][0][2] for unit in of_second}


def test_a_data_set_that_is_asked_once_ends_its_stage(tmp_path):
    rows = [{"prompt": f"say {n}", "output_tokens": 3} for n in range(5)]
    readers = Readers(recipe(file=file_of(tmp_path, rows), once=True), 2).run()
    assert [[unit[0] for unit in taken] for taken in readers.taken] == [[0, 2, 4], [1, 3]]
    body = json.loads(readers.taken[0][1][5][0][2])
    assert (body["messages"], body["max_tokens"]) == ([{"role": "user", "content": "say 2"}], 3)


def test_the_units_of_a_session_go_to_one_worker(tmp_path):
    rows = [
        {"time": n / 10, "session_id": f"s{n % 9}", "input_tokens": 3, "output_tokens": 1, "other": n}
        for n in range(90)
    ]
    readers = Readers(recipe(file=file_of(tmp_path, rows), course=Course()), 3).run()
    sessions = [{unit[2] for unit in taken} for taken in readers.taken]
    assert sum(map(len, sessions)) == len(set.union(*sessions)) == 9
    assert Counter(unit[3] for taken in readers.taken for unit in taken) == dict.fromkeys(range(10), 9)


def test_recorded_history_is_written_here_and_real_history_is_left_to_the_worker():
    turns = {"turns": parse_distribution("3", "count"), "most_turns": 3}
    readers = Readers(recipe(real_history=False, **turns), 1)
    readers.enough = 1
    requests = readers.run().taken[0][0][5]
    messages = json.loads(requests[2][2])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [request[3] for request in requests] == [b""] * 3
    readers = Readers(recipe(**turns), 1)
    readers.enough = 1
    requests = readers.run().taken[0][0][5]
    assert [bool(request[2]) for request in requests] == [True, False, False]
    assert all(json.loads(request[3])["prompt"] for request in requests)


def test_a_request_that_does_not_fit_is_told_with_its_line(tmp_path):
    how = file_of(tmp_path, [{"prompt": "short"}, {"prompt": "x" * 10_000}])
    readers = Readers(recipe(file=how), 1, capacity=1 << 12)
    with pytest.raises(UsageError, match=r"line 2: a request of 1\d{4} bytes is too large; allowed are 2032"):
        readers.preparer.work()
    readers.rings[0].close()
