import json
import pickle
from dataclasses import replace

import pytest
from asked import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import planner
from loadgen.dialects import DIALECTS
from loadgen.dialects.credentials import Credentials
from loadgen.errors import UsageError
from loadgen.plan import UsersPlan
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker

KEY = "sk-0123456789-secret"


def where(url: str, api: str = "chat") -> tuple[str, int, bool, str]:
    target = planner.endpoint(planner.resolved(spec(url=url, api=api)))
    return target.host, target.port, target.tls, target.path


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path"),
    [
        ("http://h", "h", 80, False, "/v1/chat/completions"),
        ("http://h/", "h", 80, False, "/v1/chat/completions"),
        ("http://h:8000", "h", 8000, False, "/v1/chat/completions"),
        ("https://h", "h", 443, True, "/v1/chat/completions"),
        ("https://h:8443/v1", "h", 8443, True, "/v1/chat/completions"),
        ("http://h/v1/", "h", 80, False, "/v1/chat/completions"),
        ("http://h/serving-endpoints", "h", 80, False, "/serving-endpoints/chat/completions"),
        ("http://h/openai/v1/chat/completions", "h", 80, False, "/openai/v1/chat/completions"),
        ("http://h/chat/completions/", "h", 80, False, "/chat/completions"),
        ("https://h/v1?api-version=2", "h", 443, True, "/v1/chat/completions?api-version=2"),
        ("http://h/v1/chat/completions?a=b&c=d", "h", 80, False, "/v1/chat/completions?a=b&c=d"),
        ("http://[::1]:8000/v1", "::1", 8000, False, "/v1/chat/completions"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, True, "/v1/chat/completions"),
    ],
)
def test_a_url_is_a_base_or_the_whole_path(url, host, port, tls, path):
    assert where(url) == (host, port, tls, path)
    as_completions = url.replace("/chat/completions", "/completions")
    assert where(as_completions, "completions") == (host, port, tls, path.replace("/chat/completions", "/completions"))


@pytest.mark.parametrize(("api", "other"), [("chat", "completions"), ("completions", "chat")])
def test_the_whole_path_of_another_api_is_refused(api, other):
    path = {"chat": "/chat/completions", "completions": "/completions"}[other]
    with pytest.raises(
        UsageError, match=rf"^--api: {api} does not go .* ends as that of {other} does; give --api {other}$"
    ):
        planner.resolved(spec(url=f"http://h/v1{path}", api=api))


@given(total=st.integers(0, 10**6), workers=st.integers(1, 64))
def test_shares_add_up_exactly_and_differ_by_one_at_most(total, workers):
    shares = [planner.share(total, worker, workers) for worker in range(workers)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def stage_plans(asked, workers: int):
    """Each worker's stages."""
    planned = planner.schedules(asked)
    return [planner.worker_stages(asked, planned, worker, workers, 1000) for worker in range(workers)]


@given(
    levels=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    requests=st.one_of(st.none(), st.integers(1, 5000)),
    workers=st.integers(1, 9),
)
def test_slots_and_requests_are_all_dealt_and_none_to_a_worker_without_a_slot(levels, requests, workers):
    asked = spec(concurrency=tuple(levels), requests=requests, duration_s=None if requests else 2.0)
    plans = stage_plans(asked, workers)
    for stage, level in enumerate(levels):
        mine = [plan[stage] for plan in plans]
        assert sum(plan.load.slots for plan in mine) == level
        assert [plan.load.levels for plan in mine] == [((0, plan.load.slots),) for plan in mine]
        assert {plan.load.all_slots for plan in mine} == {level}
        if requests is None:
            assert {plan.load.units for plan in mine} == {None}
            assert {plan.duration_ns for plan in mine} == {2_000_000_000}
        else:
            assert sum(plan.load.units for plan in mine) == requests
            assert all(plan.load.slots or not plan.load.units for plan in mine)
            # By slot: nobody has a round more to go than another.
            rounds = [-(-plan.load.units // plan.load.slots) for plan in mine if plan.load.slots]
            assert max(rounds) - min(rounds) <= 1


@settings(deadline=None)
@given(
    rate=st.sampled_from(["7", "100", "1..50@2s", "sine:1..80@1s"]),
    arrivals=st.sampled_from(["poisson", "constant", "gamma:2"]),
    seed=st.integers(0, 99),
    workers=st.integers(1, 5),
)
def test_any_number_of_workers_together_offer_the_arrivals_of_one(rate, arrivals, seed, workers):
    asked = spec(rate=(rate,), arrivals=arrivals, requests=None, duration_s=3.0, warmup_s=0.5, seed=seed)
    alone = stage_plans(asked, 1)[0][0].load.due_ns
    dealt = [list(stages[0].load.due_ns) for stages in stage_plans(asked, workers)]
    together = [0] * sum(map(len, dealt))
    for worker, mine in enumerate(dealt):
        together[worker::workers] = mine
    assert together == list(alone), "arrival k goes to worker k % workers"
    assert together == sorted(together)
    assert all(0 <= due_ns < 3_500_000_000 for due_ns in together)


@given(level=st.sampled_from(["0..20@1s", "5@1s+17@1s", "30..0@2s+4@1s", "sine:2..19@1s"]), workers=st.integers(1, 6))
def test_the_levels_of_all_workers_add_up_to_the_profile_at_any_time(level, workers):
    asked = spec(concurrency=(level,), requests=None, duration_s=3.0)
    (made,) = planner.schedules(asked)
    plans = [stages[0].load for stages in stage_plans(asked, workers)]
    for at_ns, wanted in made.levels:
        assert sum(max(load.levels, key=lambda one: one if one[0] <= at_ns else (-1, 0))[1] for load in plans) == wanted
    assert sum(load.slots for load in plans) == made.most_in_flight


@given(level=st.integers(1, 20), warmup=st.integers(1, 100), workers=st.integers(1, 9))
def test_a_warm_up_is_dealt_to_those_who_have_slots(level, warmup, workers):
    asked = spec(concurrency=(level,), requests=50, warmup_requests=warmup)
    plans = [stages[0] for stages in stage_plans(asked, workers)]
    assert sum(plan.warmup_requests for plan in plans) == warmup
    assert all(plan.load.slots or not plan.warmup_requests for plan in plans)


def test_places_are_dealt_and_connections_opened_before_there_is_need():
    asked = spec(rate=(100.0,), arrivals="constant", requests=None, duration_s=10.0, max_in_flight=31)
    loads = [stages[0].load for stages in stage_plans(asked, 2)]
    assert [load.max_in_flight for load in loads] == [16, 15]
    assert [load.connections for load in loads] == [16, 15], "no more than there are places"
    asked = spec(rate=(100.0,), arrivals="constant", requests=None, duration_s=10.0)
    (load,) = [stages[0].load for stages in stage_plans(asked, 1)]
    assert (load.connections, load.spare, load.max_in_flight) == (100, 10, 1000)


def test_users_are_told_how_to_behave():
    asked = spec(turns="uniform:2..4", think="exp:2s", cancel="30%@20", retries=3, history="recorded", seed=7)
    users = planner.users(asked)
    assert (users.seed, users.most_turns, users.real_history, users.retries) == (7, 4, False, 3)
    assert (users.cancel_share, users.cancel_after.draw(0.5)) == (0.3, 20)
    assert planner.users(spec()) == UsersPlan(seed=1)


def test_only_sessions_carry_what_their_turns_are_made_of():
    assert planner.pool(spec(), "sim").talk is None
    real = planner.pool(spec(turns="3", prefix_tokens=5), "sim")
    assert (len(real.talk.prompts), real.talk.answers) == (len(real.bodies), ())
    assert len(real.talk.system.split()) == 5
    assert json.loads(real.bodies[0][0] + real.bodies[0][1])["messages"][0] == {
        "role": "system",
        "content": real.talk.system,
    }
    recorded = planner.pool(spec(turns="3", history="recorded", output_tokens=9), "sim")
    assert {len(answer.split()) for answer in recorded.talk.answers} == {9}


def plans_of(asked, workers: int, key: str | None = None):
    return planner.worker_plans(
        asked,
        planner.schedules(asked),
        credentials=[Credentials(key)],
        transport="kernel",
        cores=[None] * workers,
        run_id="r",
        host={"name": "h", "kernel": "k", "clock_source": "tsc"},
        capture_paths=[f"/tmp/worker-{worker:02}.arrow" for worker in range(workers)],
        board_fd=0,
    )


def parsed(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """A request, taken apart by splitting: (request line, fields by lower-case name, body)."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a field twice"
    return line, {name.lower(): value for name, value in pairs}, body


def prompt_of(body: bytes) -> str:
    wants = json.loads(body)
    return wants["messages"][0]["content"] if "messages" in wants else wants["prompt"]


@settings(max_examples=30, deadline=None)
@given(
    api=st.sampled_from(["chat", "completions"]),
    input_tokens=st.integers(1, 300),
    output_tokens=st.integers(1, 10**6),
    ignore_eos=st.booleans(),
    seed=st.integers(0, (1 << 63) - 1),
    model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    number=st.integers(0, 1 << 42),
)
def test_a_request_is_whole_http_and_says_what_was_asked_for(
    api, input_tokens, output_tokens, ignore_eos, seed, model, number
):
    asked = spec(api=api, input_tokens=input_tokens, output_tokens=output_tokens, ignore_eos=ignore_eos, seed=seed)
    endpoint = planner.endpoint(asked)
    maker = RequestMaker(planner.pool(asked, model), DIALECTS[api])
    line, fields, body = parsed(maker.request(planner.head(asked, endpoint, Credentials(KEY)), number))
    assert line == f"POST {endpoint.path} HTTP/1.1"
    assert fields["host"] == "127.0.0.1:8000"
    assert fields["authorization"] == f"Bearer {KEY}"
    assert fields["accept-encoding"] == "identity"
    assert fields["content-type"] == "application/json"
    assert int(fields["content-length"]) == len(body)
    wants = json.loads(body)
    assert wants["model"] == model
    assert wants["max_tokens"] == output_tokens
    assert wants["stream"] is True
    assert wants["stream_options"] == {"include_usage": True}
    assert wants.get("ignore_eos") is (True if ignore_eos else None)
    assert len(prompt_of(body).split()) == input_tokens


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://h", "h"),
        ("http://h:80", "h"),
        ("http://h:443", "h:443"),
        ("https://h", "h"),
        ("https://h:80", "h:80"),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_the_host_field_leaves_out_the_schemes_own_port(url, host):
    assert parsed(planner.head(spec(url=url), planner.endpoint(spec(url=url))) + b"\r\n\r\n")[1]["host"] == host


def test_no_two_prompts_of_a_run_begin_alike():
    asked = spec(input_tokens=32, concurrency=(8, 8))
    maker = RequestMaker(plans_of(asked, 1)[0].targets[0].pool, DIALECTS["chat"])
    ids = [stage << STAGE_SHIFT | number for stage in range(2) for number in range(2000)]
    beginnings = [
        prompt_of(parsed(maker.request(b"POST / HTTP/1.1", number))[2]).split()[: planner.NONCE_BITS // 6]
        for number in ids
    ]
    assert len({" ".join(words) for words in beginnings}) == len(ids)


def test_two_seeds_give_other_prompts_and_one_seed_the_same():
    def some(seed):
        maker = RequestMaker(plans_of(spec(seed=seed), 1)[0].targets[0].pool, DIALECTS["chat"])
        return [maker.request(b"POST / HTTP/1.1", number) for number in range(300)]

    assert some(1) == some(1)
    assert not set(some(1)) & set(some(2))


def test_the_bytes_are_the_same_whatever_the_number_of_workers():
    pools = [plan.targets[0].pool for workers in (1, 2, 5) for plan in plans_of(spec(), workers)]
    assert all(pool == pools[0] for pool in pools)


def test_the_key_is_in_the_head_and_where_it_is_blotted_out_and_nowhere_else():
    plans = plans_of(spec(), 2, KEY)
    for plan in plans:
        assert KEY not in repr(plan)
        assert KEY not in repr(plan.routes)
        assert KEY.encode() in plan.routes[0].head
        assert plan.secrets == (KEY,)
        bare = replace(plan, routes=(replace(plan.routes[0], head=b""),), secrets=())
        assert KEY.encode() not in pickle.dumps(bare)
    assert plans_of(spec(), 1)[0].secrets == ()
    assert b"uthorization" not in plans_of(spec(), 1)[0].routes[0].head


def test_a_proxys_password_is_not_shown_either():
    plan = plans_of(spec(proxy="http://user:pass-word@p:1"), 1)[0]
    assert "pass-word" not in repr(plan)
    assert "pass-word" not in json.dumps(plan.metadata)


@pytest.mark.parametrize("key", ["kéy", "two\nlines", "sk-1\r", "sk\x00", "sk\t1"])
def test_a_key_that_http_cannot_send_is_refused_without_being_shown(key):
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        planner.head(spec(), planner.endpoint(spec()), Credentials(key))
    assert key not in str(caught.value)


def test_a_large_prompt_is_made_a_few_times_only():
    pool = planner.pool(spec(input_tokens=2_000_000), "sim")
    n_bytes = sum(len(before) + len(after) for before, after in pool.bodies)
    assert len(pool.bodies) < 8
    assert planner.MAX_POOL_BYTES <= n_bytes < planner.MAX_POOL_BYTES + 20_000_000


def told(**changes):
    asked = spec(**changes)
    return planner.stages(asked, planner.schedules(asked))


def test_the_stages_are_told_as_the_analysis_reads_them():
    assert told(concurrency=(1, 64), warmup_s=0.5) == [
        {
            "stage": number,
            "name": f"concurrency {level}",
            "load": {"mode": "concurrency", "value": level},
            "ramp_up_s": 0.0,
            "warmup_s": 0.5,
            "warmup_requests": 0,
            "duration_s": None,
            "requests": 4,
            "sessions": None,
            "warms_up": False,
            "arrivals_planned": None,
        }
        for number, level in enumerate((1, 64))
    ]


def test_an_open_loop_is_told_with_its_arrivals():
    (stage,) = told(rate=(50.0,), arrivals="constant", requests=None, duration_s=4.0, warmup_s=1.0, late_drop_s=0.05)
    assert stage["name"] == "rate 50/s"
    assert stage["load"] == {"mode": "rate", "value": 50.0, "arrivals": "constant", "late_drop_s": 0.05}
    assert (stage["arrivals_planned"], stage["duration_s"]) == (200, 4.0)
    (stage,) = told(rate=("1..9@4s",), arrivals="poisson", requests=None, duration_s=4.0, max_in_flight=8)
    assert stage["name"] == "rate 1..9@4s"
    assert stage["load"] == {
        "mode": "rate", "value": 5.0, "arrivals": "poisson", "profile": "1..9@4s", "max_in_flight": 8,
    }  # fmt: skip
    (stage,) = told(arrivals="burst:10@500ms", requests=None, duration_s=3.0)
    assert (stage["name"], stage["load"]["value"], stage["arrivals_planned"]) == ("burst 10@500ms", 20.0, 60)


def test_a_load_over_time_and_users_that_think_are_told():
    (stage,) = told(concurrency=("0..10@2s",), requests=None, duration_s=2.0, think="exp:1s")
    assert stage["load"] == {"mode": "concurrency", "value": 5, "profile": "0..10@2s", "think": "exp:1s"}
    (stage,) = told(rate=(2.0,), requests=None, sessions=6, turns="3", think="1s")
    assert stage["load"]["unit"] == "session"
    assert stage["sessions"] == 6


# headers

WITH_KEY = Credentials("sk-1")


def head_fields(asked, credentials: Credentials = WITH_KEY) -> dict[str, str]:
    return parsed(planner.head(asked, planner.endpoint(asked), credentials) + b"\r\n\r\n")[1]


@pytest.mark.parametrize(
    ("api", "accept"),
    [("chat", "text/event-stream"), ("ollama", "application/x-ndjson"), ("embeddings", "application/json")],
)
def test_what_is_accepted_is_what_the_api_sends(api, accept):
    fields = head_fields(spec(api=api))
    assert (fields["accept"], fields["accept-encoding"]) == (accept, "identity")


def test_the_users_headers_come_last_and_replace_those_of_the_same_name():
    asked = spec(header=(("accept", "x/y"), ("X-Trace", "7"), ("Host", "other")))
    secret = Credentials("sk-1", (("authorization", "Basic abc"),))
    fields = head_fields(asked, secret)
    assert (fields["accept"], fields["x-trace"], fields["host"], fields["authorization"]) == (
        "x/y", "7", "other", "Basic abc",
    )  # fmt: skip


def test_each_api_has_its_key_in_its_own_header():
    assert head_fields(spec(api="messages"))["x-api-key"] == "sk-1"
    assert head_fields(spec(api="messages"))["anthropic-version"] == "2023-06-01"
    assert head_fields(spec(api="azure"))["api-key"] == "sk-1"
    assert "authorization" not in head_fields(spec(api="gemini"))


def test_secret_headers_are_blotted_out_and_written_nowhere():
    asked = spec(header_env=(("X-Key", "GATEWAY"),))
    (plan,) = plans_of(asked, 1)
    assert plan.metadata["spec"]["header_env"] == [("X-Key", "GATEWAY")]
    credentials = Credentials("sk-1", (("X-Key", "the gateway's own"),))
    plans = planner.worker_plans(
        asked,
        planner.schedules(asked),
        credentials=[credentials],
        transport="kernel",
        cores=[None],
        run_id="r",
        host={"name": "h", "kernel": "k", "clock_source": "tsc"},
        capture_paths=["/tmp/x"],
        board_fd=0,
    )
    assert plans[0].secrets == ("the gateway's own", "sk-1")
    assert "gateway's" not in repr(plans) + json.dumps(plans[0].metadata)
    assert b"X-Key: the gateway's own" in plans[0].routes[0].head


def test_images_differ_from_body_to_body_and_are_the_same_for_a_seed():
    def images(seed: int) -> list[str]:
        pool = planner.pool(spec(image=("40x30", "https://h/a.png"), seed=seed), "m")
        bodies = [json.loads(before + after)["messages"][0]["content"] for before, after in pool.bodies[:5]]
        assert {len(content) for content in bodies} == {3}
        assert {content[2]["image_url"]["url"] for content in bodies} == {"https://h/a.png"}
        return [content[1]["image_url"]["url"] for content in bodies]

    assert len(set(images(1))) == 5
    assert images(1) == images(1) != images(2)


@pytest.mark.parametrize("api", list(DIALECTS))
def test_every_api_can_carry_the_load(api):
    asked = planner.resolved(spec(api=api, url="http://127.0.0.1:8000"))
    maker = RequestMaker(plans_of(asked, 1)[0].targets[0].pool, DIALECTS[api])
    bodies = {maker.request(b"POST / HTTP/1.1", number).partition(b"\r\n\r\n")[2] for number in range(600)}
    assert len(bodies) == 600, "no two are alike"
    assert all(json.loads(body) for body in list(bodies)[:5])
    (stage,) = planner.stages(asked, planner.schedules(asked))
    assert ("inputs_per_request" in stage) == api.endswith("embeddings")
