from asked import spec

from loadgen import planner


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
