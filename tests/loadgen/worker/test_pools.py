from collections.abc import Callable

import pytest

from loadgen.worker.pools import Pools


class Slots:
    """A transport's slots, without one: connections open when they are told to."""

    def __init__(self, *origins: int) -> None:
        self.origins = list(origins)
        self.opened = set(range(len(origins)))
        self.being_prepared: list[tuple[int, Callable[[int], None]]] = []

    @property
    def slots(self) -> int:
        return len(self.origins)

    def add_slot(self, origin: int) -> int:
        self.origins.append(origin)
        return self.slots - 1

    def origin(self, slot: int) -> int:
        return self.origins[slot]

    def move(self, slot: int, origin: int) -> None:
        if self.origins[slot] != origin:
            self.opened.discard(slot)
            self.origins[slot] = origin

    def is_open(self, slot: int) -> bool:
        return slot in self.opened

    def prepare(self, slot: int, on_prepared: Callable[[int], None]) -> None:
        self.being_prepared.append((slot, on_prepared))

    def prepared(self) -> None:
        for slot, on_prepared in self.being_prepared:
            self.opened.add(slot)
            on_prepared(slot)
        self.being_prepared = []


def pools(slots: Slots, origins: int = 2, most: int = 100, places: int = 50, spare: int = 0) -> Pools:
    made = Pools(slots, [1 / origins] * origins, most)
    made.begin_stage(places, spare)
    return made


def test_who_begins_gets_a_connection_of_his_origin_that_was_used_last():
    slots = Slots(0, 1, 0, 1)
    made = pools(slots)
    taken = [made.take(0), made.take(0), made.take(1)]
    assert [slots.origins[slot] for slot in taken] == [0, 0, 1]
    made.give_back(taken[0])
    made.give_back(taken[1])
    assert made.take(0) == taken[1]


def test_a_connection_that_its_server_closed_is_anybodys():
    slots = Slots(0, 0, 0)
    made = pools(slots)
    slots.opened = {2}
    assert made.take(0) == 2, "it finds the others closed on its way"
    slot = made.take(1)
    assert slot in (0, 1)
    assert slots.origins[slot] == 1
    assert slots.slots == 3, "none was added"


def test_with_several_origins_more_connections_are_kept_than_there_are_places():
    slots = Slots()
    made = pools(slots, places=2)
    for origin in (0, 0, 1, 1, 0, 1):
        slot = made.take(origin)
        slots.opened.add(slot)
        made.give_back(slot)
    assert slots.slots == 2, "one of each: they were never used at the same time"
    held = [made.take(0), made.take(0)]
    for slot in held:
        slots.opened.add(slot)
        made.give_back(slot)
    assert sorted(slots.origins) == [0, 0, 1]


def test_beyond_what_the_process_can_hold_the_longest_idle_one_of_another_origin_is_given_up():
    slots = Slots(0, 0, 0, 1)
    made = pools(slots, most=4)
    first = made.take(1)
    second = made.take(1)
    assert (slots.slots, slots.origins[first], slots.origins[second]) == (4, 1, 1)
    assert second not in slots.opened


def test_one_origin_has_as_many_connections_as_places_and_no_room_beyond():
    slots = Slots(0)
    made = pools(slots, origins=1, places=2)
    assert made.has_room
    made.take(0)
    made.take(0)
    assert (slots.slots, made.has_room) == (2, False)


def test_spare_connections_are_opened_ahead_and_tell_when_they_are_free():
    slots = Slots(0, 1)
    made = pools(slots, places=4, spare=2)
    told: list[bool] = []
    made.on_room = lambda: told.append(made.has_room)
    made.take(0)
    assert [slots.origins[slot] for slot, _ in slots.being_prepared] == [0, 0]
    slots.prepared()
    assert told == [True, True]
    made.take(0)
    assert len(slots.being_prepared) == 1, "one of the two is still there"


@pytest.mark.parametrize(("origins", "connections", "most"), [(1, 64, 64), (4, 64, 10_000), (4, 64, 70), (3, 1, 10)])
def test_what_is_opened_before_the_start_is_enough_and_not_more_than_can_be_held(origins, connections, most):
    made = Pools(Slots(), [1 / origins] * origins, most)
    wanted = made.wanted(connections)
    assert sum(wanted) <= most
    assert all(count <= connections for count in wanted)
    if most > 2 * connections * origins:
        assert sum(wanted) > connections
