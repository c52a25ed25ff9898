import json
import pickle
from dataclasses import replace

import pytest
from asked import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import planner
from loadgen.errors import UsageError
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker

KEY = "sk-0123456789-secret"


def where(url: str, api: str = "chat") -> tuple[str, int, bool, str]:
    target = planner.target(spec(url=url, api=api))
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
    with pytest.raises(UsageError, match=rf"^--api: {api} does not go .* in {path}; give --api {other}$"):
        planner.target(spec(url=f"http://h/v1{path}", api=api))


@given(total=st.integers(0, 10**6), workers=st.integers(1, 64))
def test_shares_add_up_exactly_and_differ_by_one_at_most(total, workers):
    shares = [planner.share(total, worker, workers) for worker in range(workers)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@given(
    levels=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    requests=st.one_of(st.none(), st.integers(1, 5000)),
    workers=st.integers(1, 9),
)
def test_slots_and_requests_are_all_dealt_and_none_to_a_worker_without_a_slot(levels, requests, workers):
    asked = spec(concurrency=tuple(levels), requests=requests, duration_s=None if requests else 2.0)
    plans = [planner.worker_stages(asked, worker, workers) for worker in range(workers)]
    for stage, level in enumerate(levels):
        mine = [plan[stage] for plan in plans]
        assert sum(plan.concurrency for plan in mine) == level
        assert {plan.all_slots for plan in mine} == {level}
        if requests is None:
            assert {plan.requests for plan in mine} == {None}
            assert {plan.duration_ns for plan in mine} == {2_000_000_000}
        else:
            assert sum(plan.requests for plan in mine) == requests
            assert all(plan.concurrency or not plan.requests for plan in mine)
            # By slot: nobody has a round more to go than another.
            rounds = [-(-plan.requests // plan.concurrency) for plan in mine if plan.concurrency]
            assert max(rounds) - min(rounds) <= 1


def plans_of(asked, workers: int, key: str | None = None):
    return planner.worker_plans(
        asked,
        where=planner.target(asked),
        model="sim",
        key=key,
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
    target = planner.target(asked)
    maker = RequestMaker(planner.pool(asked, model, planner.head(target, KEY)))
    line, fields, body = parsed(maker.request(number))
    assert line == f"POST {target.path} HTTP/1.1"
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
    assert parsed(planner.head(planner.target(spec(url=url)), None) + b"\r\n\r\n")[1]["host"] == host


def test_no_two_prompts_of_a_run_begin_alike():
    asked = spec(input_tokens=32, concurrency=(8, 8))
    maker = RequestMaker(plans_of(asked, 1)[0].pool)
    ids = [stage << STAGE_SHIFT | number for stage in range(2) for number in range(2000)]
    beginnings = [prompt_of(parsed(maker.request(number))[2]).split()[: planner.NONCE_WORDS] for number in ids]
    assert len({" ".join(words) for words in beginnings}) == len(ids)


def test_two_seeds_give_other_prompts_and_one_seed_the_same():
    def some(seed):
        maker = RequestMaker(plans_of(spec(seed=seed), 1)[0].pool)
        return [maker.request(number) for number in range(300)]

    assert some(1) == some(1)
    assert not set(some(1)) & set(some(2))


def test_the_bytes_are_the_same_whatever_the_number_of_workers():
    pools = [plan.pool for workers in (1, 2, 5) for plan in plans_of(spec(), workers)]
    assert all(pool == pools[0] for pool in pools)


def test_the_key_is_in_the_head_and_where_it_is_blotted_out_and_nowhere_else():
    plans = plans_of(spec(), 2, KEY)
    for plan in plans:
        assert KEY not in repr(plan)
        assert KEY not in repr(plan.pool)
        assert KEY.encode() in plan.pool.head
        assert plan.secrets == (KEY,)
        bare = replace(plan, pool=replace(plan.pool, head=b""), secrets=())
        assert KEY.encode() not in pickle.dumps(bare)
    assert plans_of(spec(), 1)[0].secrets == ()
    assert b"uthorization" not in plans_of(spec(), 1)[0].pool.head


def test_a_proxys_password_is_not_shown_either():
    plan = plans_of(spec(proxy="http://user:pass-word@p:1"), 1)[0]
    assert "pass-word" not in repr(plan)
    assert "pass-word" not in json.dumps(plan.metadata)


@pytest.mark.parametrize("key", ["kéy", "two\nlines", "sk-1\r", "sk\x00", "sk\t1"])
def test_a_key_that_http_cannot_send_is_refused_without_being_shown(key):
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        planner.head(planner.target(spec()), key)
    assert key not in str(caught.value)


def test_a_large_prompt_is_made_a_few_times_only():
    pool = planner.pool(spec(input_tokens=2_000_000), "sim", b"")
    n_bytes = sum(len(before) + len(after) for before, after in pool.bodies)
    assert len(pool.bodies) < 8
    assert planner.MAX_POOL_BYTES <= n_bytes < planner.MAX_POOL_BYTES + 20_000_000


def test_the_stages_are_told_as_the_analysis_reads_them():
    assert planner.stages(spec(concurrency=(1, 64), warmup_s=0.5)) == [
        {
            "stage": number,
            "name": f"concurrency {level}",
            "load": {"mode": "concurrency", "value": level},
            "warmup_s": 0.5,
            "duration_s": None,
            "requests": 4,
        }
        for number, level in enumerate((1, 64))
    ]
