"""The clock of another machine: the stated uncertainty covers the truth, whatever the ways and the drift."""

import contextlib
import os
import random
import socket
import subprocess
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import agents
import pytest
from agents import TOKEN, Where
from hypothesis import given
from hypothesis import strategies as st

from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.cluster import fleet
from loadgen.cluster.clock import (
    MOST_DRIFT,
    Bound,
    RoundTrip,
    bound,
    carried_on,
    points,
    there_ns,
    uncertainty_between_ns,
)
from loadgen.cluster.fleet import Fleet

delays_ns = st.integers(0, 50 * NS_PER_MS)
offsets_ns = st.integers(-(10**15), 10**15)


class Other(NamedTuple):
    """A clock that is `offset_ns` ahead of ours when ours shows 0, and gains `drift` ns a ns."""

    offset_ns: int
    drift: float

    def ahead_ns(self, here_ns: float) -> float:
        return self.offset_ns + here_ns * self.drift

    def trip(self, sent_ns: int, there_ns_: int, back_ns: int) -> RoundTrip:
        arrived_ns = sent_ns + there_ns_
        return RoundTrip(sent_ns, round(arrived_ns + self.ahead_ns(arrived_ns)), arrived_ns + back_ns)


def burst(other: Other, at_ns: int, ways: list[tuple[int, int]]) -> Bound:
    trips = []
    for there, back in ways:
        trips.append(other.trip(at_ns, there, back))
        at_ns += there + back
    return bound(trips)


@given(offsets_ns, st.lists(st.tuples(delays_ns, delays_ns), min_size=1, max_size=20))
def test_the_truth_is_within_the_bounds_however_unequal_the_two_ways_are(offset_ns, ways):
    found = burst(Other(offset_ns, 0.0), 10**12, ways)
    assert found.least_ns <= offset_ns <= found.most_ns
    assert abs(found.offset_ns - offset_ns) <= found.uncertainty_ns


@given(st.lists(st.tuples(delays_ns, delays_ns), min_size=1, max_size=20))
def test_the_quickest_round_trip_of_a_burst_decides(ways):
    found = burst(Other(0, 0.0), 0, ways)
    quickest_ns = min(there + back for there, back in ways)
    passed_ns = sum(there + back for there, back in ways)
    assert found.uncertainty_ns <= quickest_ns / 2 + 2 * passed_ns * MOST_DRIFT + 3


def test_quick_ways_of_different_round_trips_count_together():
    found = burst(Other(7, 0.0), 0, [(10, 1000), (1000, 10)])
    assert found.uncertainty_ns <= 12, "neither round trip alone is known better than 505"


@given(
    offsets_ns,
    st.floats(-MOST_DRIFT / 2, MOST_DRIFT / 2),
    st.lists(
        st.tuples(st.integers(1, 5 * NS_PER_S), st.lists(st.tuples(delays_ns, delays_ns), min_size=1, max_size=4)),
        min_size=1,
        max_size=8,
    ),
)
def test_the_way_back_to_our_time_is_right_at_every_moment_of_a_run(offset_ns, drift, bursts):
    other, at_ns, bounds = Other(offset_ns, drift), 10**10, []
    for pause_ns, ways in bursts:
        bounds.append(burst(other, at_ns, ways))
        at_ns += pause_ns + sum(there + back for there, back in ways)
    found = points(bounds)
    assert len(found) == len(bounds)
    for before, one in zip(bounds, found, strict=True):
        assert one.uncertainty_ns <= before.uncertainty_ns, "others can only help"
        here = one.t_ns + one.offset_ns
        assert abs(one.offset_ns + other.ahead_ns(here)) <= one.uncertainty_ns + 1
    most_ns = uncertainty_between_ns(found)
    for before_, after in pairwise(found):
        for part in (0.25, 0.5, 0.75):
            t_ns = before_.t_ns + (after.t_ns - before_.t_ns) * part
            way_ns = before_.offset_ns + (after.offset_ns - before_.offset_ns) * part
            here_ns = t_ns + way_ns
            assert abs(here_ns + other.ahead_ns(here_ns) - t_ns) <= most_ns + 1


def test_a_clock_that_was_set_is_told_as_unsure_and_not_as_one_of_the_two():
    before, after = Bound(0, -10, 10), Bound(NS_PER_S, 10**9, 10**9 + 20)
    assert uncertainty_between_ns(points([before, after])) >= 10**9 // 2


def test_slow_round_trips_do_not_make_what_was_known_before_less_sure():
    quick, slow = burst(Other(77, 0.0), 0, [(10, 10)]), burst(Other(77, 0.0), NS_PER_S, [(NS_PER_MS, 9 * NS_PER_MS)])
    now = carried_on(quick, slow)
    assert now.at_ns == slow.at_ns
    assert now.least_ns <= 77 <= now.most_ns
    assert now.uncertainty_ns <= quick.uncertainty_ns + NS_PER_S * MOST_DRIFT * 1.01 + 2


def test_a_start_is_told_in_the_time_of_the_other_clock():
    assert there_ns(Bound(5, 90, 110), 1000) == 1100


# --- over a network ---


class Relay:
    """A way between two machines that takes its time: TCP through a process's hands, each way `delay_ms` +- `jitter_ms`.

    What netem does, for kernels without it. Every way draws its own delays, and bytes stay in order.
    """

    def __init__(self, port: int, delay_ms: float, jitter_ms: float) -> None:
        self._port = port
        self._delay_s, self._jitter_s = delay_ms / 1000, jitter_ms / 1000
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._take, daemon=True)]
        self._threads[0].start()

    def _take(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._carry, args=(source, sink), daemon=True))
                self._threads[-1].start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        randomness = random.Random()
        while True:
            try:
                data = source.recv(65536)
                time.sleep(max(self._delay_s + randomness.uniform(-self._jitter_s, self._jitter_s), 0))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._ends:
            one.close()


@pytest.fixture
def quick_bursts(monkeypatch):
    monkeypatch.setattr(fleet, "LONG_BURST", 4)


@pytest.mark.parametrize("delay_ms", [0, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_the_stated_uncertainty_covers_the_true_offset_in_20_of_20_runs(delay_ms, quick_bursts):
    covered, widths_ns = 0, []
    with agents.processes(Where()) as engine:
        for run in range(20):
            offset_ns = (-1) ** run * (run * 1_234_567_891 + 987_654_321)
            engine.wheres = [Where(offset_ns=offset_ns)]
            [(host, port, facts)] = engine.agents(TOKEN)
            relay = Relay(port, delay_ms, 2)
            with Fleet(Opened([(host, relay.port, facts)]), TOKEN) as nodes:
                for _ in range(2):
                    nodes.nodes[0].estimate(4)
                told = points(nodes.nodes[0].bounds)
            relay.close()
            covered += all(abs(-point.offset_ns - offset_ns) <= point.uncertainty_ns for point in told)
            widths_ns.append(max(point.uncertainty_ns for point in told))
    assert covered == 20
    # Half a round trip at most, of which the delay is each way; a second for a machine that stands still.
    assert min(widths_ns) <= delay_ms * NS_PER_MS + NS_PER_S


class Opened:
    """An engine whose agents have been started before."""

    def __init__(self, told: list[tuple[str, int, dict[str, Any]]]) -> None:
        self._told = told

    def agents(self, _token: bytes) -> list[tuple[str, int, dict[str, Any]]]:
        return self._told

    def call(self, method: str, _arguments: dict[int, Any]) -> dict[int, Any]:
        pytest.fail(f"clocks are compared over sockets, and {method} was called")


def test_a_clock_that_runs_at_another_rate_is_followed():
    drift_ppm, offset_ns = 45.0, 5 * NS_PER_S
    began_ns = monotonic_ns()
    with agents.processes(Where(offset_ns=offset_ns, drift_ppm=drift_ppm)) as engine, Fleet(engine, TOKEN) as nodes:
        ready_ns = monotonic_ns()
        for _ in range(4):
            time.sleep(0.5)  # in which the other clock gains
            nodes.nodes[0].estimate()
        told = points(nodes.nodes[0].bounds)
    for point in told:
        # The agent's clock began to gain somewhere between the two moments.
        here_ns = point.t_ns + point.offset_ns
        gained = [(here_ns - since_ns) * drift_ppm / 1e6 for since_ns in (ready_ns, began_ns)]
        ahead_ns = -point.offset_ns - offset_ns
        assert min(gained) - point.uncertainty_ns <= ahead_ns <= max(gained) + point.uncertainty_ns


@pytest.fixture
def netem():
    """Another machine as far as the network goes: where its agent is to run, and a function that delays its link."""
    number = os.getpid() % 250  # several of these tests may run side by side
    name, here, there = f"lgclock{number}", f"lghere{number}", f"lgthere{number}"
    near, far = f"198.18.{number}.1", f"198.18.{number}.2"
    inside = ("ip", "netns", "exec", name)

    def done(*command: str) -> bool:
        try:
            return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
        except FileNotFoundError:
            return False

    def delay(delay_ms: float, jitter_ms: float) -> None:
        for prefix, device in (((), here), (inside, there)):
            done(*prefix, "tc", "qdisc", "del", "dev", device, "root")
            command = ("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", f"{delay_ms}ms", f"{jitter_ms}ms")
            if not done(*prefix, *command):
                pytest.skip("this kernel has no netem, or does not allow it")

    if not done("ip", "netns", "add", name):
        pytest.skip("network namespaces are not allowed here")
    try:
        assert done("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        assert done("ip", "addr", "add", f"{near}/30", "dev", here)
        assert done("ip", "link", "set", here, "up")
        assert done(*inside, "ip", "addr", "add", f"{far}/30", "dev", there)
        assert done(*inside, "ip", "link", "set", there, "up")
        yield Where(inside, far), delay
    finally:
        done("ip", "link", "del", here)
        done("ip", "netns", "del", name)


def test_the_offset_to_another_network_namespace_is_known(netem):
    where, _ = netem
    offset_ns = 123_456_789_123
    with agents.processes(replace(where, offset_ns=offset_ns)) as engine, Fleet(engine, TOKEN) as nodes:
        told = points(nodes.nodes[0].bounds)
    assert all(abs(-point.offset_ns - offset_ns) <= point.uncertainty_ns for point in told)


@pytest.mark.parametrize("delay_ms", [5, 20])
def test_the_kernels_own_delays_are_covered_as_well(netem, delay_ms, quick_bursts):
    where, delay = netem
    delay(delay_ms, 2)
    offset_ns = -987_654_321
    with agents.processes(replace(where, offset_ns=offset_ns)) as engine, Fleet(engine, TOKEN) as nodes:
        told = points(nodes.nodes[0].bounds)
    assert all(abs(-point.offset_ns - offset_ns) <= point.uncertainty_ns for point in told)
