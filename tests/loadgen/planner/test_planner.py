import json
import pickle
from dataclasses import replace

from asked import spec
from planned import KEY, plans_of

from loadgen import planner
from loadgen.dialects.credentials import Credentials
from loadgen.plan import UsersPlan


def test_users_are_told_how_to_behave():
    asked = spec(turns="uniform:2..4", think="exp:2s", cancel="30%@20", retries=3, history="recorded", seed=7)
    users = planner.users(asked)
    assert (users.seed, users.most_turns, users.real_history, users.retries) == (7, 4, False, 3)
    assert (users.cancel_share, users.cancel_after.draw(0.5)) == (0.3, 20)
    assert planner.users(spec()) == UsersPlan(seed=1)


def test_the_key_is_in_the_head_and_where_it_is_blotted_out_and_nowhere_else():
    plans = plans_of(spec(), 2, Credentials(KEY))
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


def test_secret_headers_are_blotted_out_and_written_nowhere():
    asked = spec(header_env=(("X-Key", "GATEWAY"),))
    (plan,) = plans_of(asked, 1)
    assert plan.metadata["spec"]["header_env"] == [("X-Key", "GATEWAY")]
    credentials = Credentials("sk-1", (("X-Key", "the gateway's own"),))
    plans = plans_of(asked, 1, credentials)
    assert plans[0].secrets == ("the gateway's own", "sk-1")
    assert "gateway's" not in repr(plans) + json.dumps(plans[0].metadata)
    assert b"X-Key: the gateway's own" in plans[0].routes[0].head
