"""What `loadgen plan` says, against arithmetic done here."""

import json

import pytest
from asked import spec, typed

from loadgen import host, planner, recipes
from loadgen.forecast import CONNECTION_BYTES, EVENT_BYTES, ROW_BYTES, WORKER_BYTES, Expected, forecast
from loadgen.spec.targets import OF_TARGET, made

# 0.5 s to the first token and 10 ms for each of the others.
EXPECTED = Expected(ttft_s=0.5, tpot_s=0.01)


def told(workers: int = 1, **changes):
    asked = spec(**{"input_tokens": 100, "output_tokens": 51, **changes})
    planned = planner.schedules(asked)
    plans = [planner.worker_stages(asked, planned, worker, workers, 1000) for worker in range(workers)]
    return forecast(asked, planned, plans, [planner.pool(asked, "sim")], EXPECTED, recipes.means(asked, workers))


def test_a_closed_loop_gets_through_what_its_slots_can_in_the_time():
    (stage,) = told(concurrency=(8,), requests=None, duration_s=9.0, warmup_s=1.0).stages
    # 10 s, a second a request, 8 slots.
    assert (stage.requests, stage.is_exact, stage.arrivals, stage.connections) == (80, False, None, 8)
    assert (stage.input_tokens, stage.output_tokens, stage.sending_s) == (8000, 80 * 51, 10.0)
    (stage,) = told(concurrency=(8,), requests=None, duration_s=10.0, think="1s").stages
    assert stage.requests == 40, "half of the time its users think"


def test_a_stage_shorter_than_a_response_sends_what_each_slot_begins():
    (stage,) = told(concurrency=(8,), requests=None, duration_s=1.0, warmup_s=0.0, output_tokens=1000).stages
    assert stage.requests == 8


def test_a_closed_loop_of_so_many_requests_takes_its_time():
    (stage,) = told(concurrency=(4,), requests=40).stages
    assert (stage.requests, stage.is_exact, stage.sending_s) == (40, True, 10.0)


def test_an_open_loop_knows_its_arrivals_and_reckons_what_is_in_flight():
    one = told(rate=(20.0,), arrivals="constant", requests=None, duration_s=10.0)
    (stage,) = one.stages
    assert (stage.arrivals, stage.requests, stage.is_exact) == (200, 200, True)
    assert stage.connections == 21, "20 arrivals a second, a second each"
    (stage,) = told(rate=(20.0,), requests=None, duration_s=10.0, max_in_flight=5).stages
    assert stage.connections == 5
    (stage,) = told(rate=(20.0,), requests=3).stages
    assert stage.connections == 3


def test_a_turn_of_a_session_repeats_those_before_it():
    (stage,) = told(concurrency=(1,), requests=None, sessions=10, turns="3", prefix_tokens=7).stages
    # Turn 0 has 100 words, turn 1 100 + 51 + 100, turn 2 as much again more.
    assert stage.requests == 30
    assert stage.input_tokens == 10 * (3 * 7 + 100 + 251 + 402)
    assert told(rate=(1.0,), requests=None, sessions=10, turns="3", think="1s").stages[0].connections == 6


def test_what_is_not_answered_in_tokens_has_none():
    def output_tokens(*apis: str) -> int:
        one = spec(url="http://h")
        targets = made(
            [{"name": api, "api": api} for api in apis],
            {name: getattr(one, name) for name in OF_TARGET} | {"url": (one.url,)},
        )
        return (
            told(concurrency=(1,), requests=40, api=apis[0], targets=targets if len(apis) > 1 else ())
            .stages[0]
            .output_tokens
        )

    assert output_tokens("chat") == 40 * 51
    assert output_tokens("embeddings") == 0
    assert output_tokens("chat", "embeddings") == 20 * 51


def test_memory_and_disk_add_up():
    one = told(workers=2, concurrency=(8, 64), requests=None, duration_s=10.0)
    assert one.connections == 64
    assert one.total_s == 20.0
    assert one.memory_bytes >= 2 * WORKER_BYTES + 64 * CONNECTION_BYTES
    assert one.disk_bytes == (80 + 640) * (ROW_BYTES + 51 * EVENT_BYTES)


def test_the_command_says_it_and_calls_nobody():
    # Nobody listens there.
    url = ("--url", "http://127.0.0.1:9")
    ended = typed("plan", *url, "--rate", "50", "--arrivals", "constant", "--duration", "10s", "--concurrency", "2")
    assert ended.returncode == 2
    ended = typed("plan", *url, "--rate", "50", "--arrivals", "constant", "--duration", "10s", "--warmup", "1s")
    assert ended.returncode == 0, ended
    for words in ("rate 50/s", " 550", "the first arrivals at 0.0000, 0.0200, 0.0400", "descriptors"):
        assert words in ended.stdout
    ended = typed("plan", *url, "--concurrency", "1,8", "--duration", "10s", "--json")
    facts = json.loads(ended.stdout)
    assert [stage["load"]["value"] for stage in facts["stages"]] == [1, 8]
    assert facts["descriptors"] == host.descriptor_limit()
    assert facts["spec"]["url"] == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("more", "warms_up", "is_too_early"),
    [
        (("--rate", 5, "--expect-tpot", "80ms"), "14", False),
        (("--rate", 5, "--expect-tpot", "250ms"), "15", True),  # half of the duration, and no more
        (("--rate", 5, "--expect-tpot", "250ms", "--warmup", "3s"), None, True),
        (("--rate", 5, "--expect-tpot", "250ms", "--warmup", "33s"), None, False),
        (("--rate", 5, "--expect-tpot", "20ms"), None, False),  # a response is hardly longer than the warm-up
        (("--rate", "1..5@30s", "--expect-tpot", "80ms"), None, False),
        (("--rate", 5, "--expect-tpot", "250ms", "--max-in-flight", 4), "15", False),
        (("--concurrency", 5, "--expect-tpot", "80ms"), None, False),
        (("--rate", 5, "--turns", 3, "--think", "4s", "--expect-tpot", "1ms"), "13", False),  # a session takes 9.9 s
    ],
)
def test_an_open_loop_warms_up_as_long_as_a_response_and_what_is_too_short_is_told(more, warms_up, is_too_early):
    ended = typed("plan", "--url", "http://127.0.0.1:9", "--duration", "30s", *more, COLUMNS="300")
    assert ended.returncode == 0, ended
    assert ("rate 5/s: warms up for" in ended.stdout) == (warms_up is not None)
    assert f"rate 5/s: warms up for {warms_up} s," in ended.stdout or warms_up is None
    assert ("when the load is still rising; --warmup 33s" in ended.stdout) == is_too_early


def test_more_connections_than_ports_are_told():
    """As many machines as that takes, and how one comes to have more."""
    url = ("--url", "http://127.0.0.1:9")
    ended = typed("plan", *url, "--concurrency", "64", "--requests", "64", "--machine", "cores=2,ports=63")
    assert "2 machines" in ended.stdout
    assert "the limit is ports" in ended.stdout
    assert "widen net.ipv4.ip_local_port_range" in ended.stdout
    ended = typed("plan", *url, "--concurrency", "64", "--requests", "64", "--machine", "cores=2,ports=64")
    assert "1 machine (" in ended.stdout
    assert "ports: 64 of 64 to one address" in ended.stdout


@pytest.mark.parametrize(("text", "ports"), [("32768\t60999", 28232), ("", None), ("many", None)])
def test_the_range_of_ports_is_the_systems(text, ports, monkeypatch):
    monkeypatch.setattr(host, "_line", lambda _: text)
    assert host.ephemeral_ports() == ports
