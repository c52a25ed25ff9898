import json

import pytest
from asked import spec
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import KEY, parsed, plans_of, prompt_of

from loadgen import planner
from loadgen.dialects import DIALECTS
from loadgen.dialects.credentials import Credentials
from loadgen.planner.bodies import MAX_POOL_BYTES, NONCE_BITS
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker


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


@pytest.mark.parametrize("api", list(DIALECTS))
def test_every_api_can_carry_the_load(api):
    asked = planner.resolved(spec(api=api, url="http://127.0.0.1:8000"))
    maker = RequestMaker(plans_of(asked, 1)[0].targets[0].pool, DIALECTS[api])
    bodies = {maker.request(b"POST / HTTP/1.1", number).partition(b"\r\n\r\n")[2] for number in range(600)}
    assert len(bodies) == 600, "no two are alike"
    assert all(json.loads(body) for body in list(bodies)[:5])
    (stage,) = planner.stages(asked, planner.schedules(asked))
    assert ("inputs_per_request" in stage) == api.endswith("embeddings")


def test_no_two_prompts_of_a_run_begin_alike():
    asked = spec(input_tokens=32, concurrency=(8, 8))
    maker = RequestMaker(plans_of(asked, 1)[0].targets[0].pool, DIALECTS["chat"])
    ids = [stage << STAGE_SHIFT | number for stage in range(2) for number in range(2000)]
    beginnings = [
        prompt_of(parsed(maker.request(b"POST / HTTP/1.1", number))[2]).split()[: NONCE_BITS // 6] for number in ids
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


def test_a_large_prompt_is_made_a_few_times_only():
    pool = planner.pool(spec(input_tokens=2_000_000), "sim")
    n_bytes = sum(len(before) + len(after) for before, after in pool.bodies)
    assert len(pool.bodies) < 8
    assert MAX_POOL_BYTES <= n_bytes < MAX_POOL_BYTES + 20_000_000


def test_images_differ_from_body_to_body_and_are_the_same_for_a_seed():
    def images(seed: int) -> list[str]:
        pool = planner.pool(spec(image=("40x30", "https://h/a.png"), seed=seed), "m")
        bodies = [json.loads(before + after)["messages"][0]["content"] for before, after in pool.bodies[:5]]
        assert {len(content) for content in bodies} == {3}
        assert {content[2]["image_url"]["url"] for content in bodies} == {"https://h/a.png"}
        return [content[1]["image_url"]["url"] for content in bodies]

    assert len(set(images(1))) == 5
    assert images(1) == images(1) != images(2)
