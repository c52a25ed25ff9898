"""How much is sent, and when."""

from typing import Final

from loadgen.spec.notation import (
    read_abort_on,
    read_arrivals,
    read_concurrency,
    read_late,
    read_levels,
    read_seconds,
    read_switch,
    read_text,
    read_whole,
)
from loadgen.spec.settings.setting import Setting, duration

LOAD: Final = (
    Setting("name", read_text, of_stage=True),
    Setting(
        "concurrency",
        read_concurrency,
        "Closed loop: requests (or sessions) in flight, a number or a PROFILE; a list or a range (1..64x2, 10..50+10) "
        "is a stage each (default: 1 without --rate). Replaces the stages of --spec.",
        metavar="N|PROFILE[,...]",
        of_stage=True,
    ),
    Setting(
        "rate",
        read_levels,
        "Open loop: arrivals a second, a number or a PROFILE; a list or a range is a stage each. Replaces the stages of "
        "--spec. "
        "A PROFILE is 20@30s, 1..100@60s, exp:1..100@60s, sine:10..100@60s, or several joined by +.",
        metavar="R|PROFILE[,...]",
        of_stage=True,
    ),
    Setting(
        "arrivals",
        read_arrivals,
        "How arrivals follow each other: constant, poisson, gamma:CV, typical:TIME (the most typical of many Poisson "
        "plans, for responses that take TIME); or, without --rate, burst:N@PERIOD, trace:FILE (a time in seconds a "
        "line) (default: poisson).",
        metavar="KIND",
        of_stage=True,
    ),
    Setting("requests", read_whole, "End a stage after this many requests.", metavar="M", of_stage=True),
    Setting("sessions", read_whole, "End a stage after this many sessions (with --turns).", metavar="M", of_stage=True),
    duration(
        "duration",
        help="End a stage after this time (default: the length of its PROFILE or trace; 30s without --requests).",
        of_stage=True,
    ),
    duration("ramp_up", help="Rise from 0 to the load in this time, before the warm-up.", default="0s", of_stage=True),
    duration(
        "warmup",
        help="Load before the measured window (default: a tenth of --duration, at most 10s, in an open loop longer where "
        "the check shows that a response takes longer, up to half of --duration; 0 with --requests, --sessions or a load "
        "that changes over time).",
        of_stage=True,
    ),
    Setting(
        "warmup_requests",
        read_whole,
        "Warm up by this many requests instead of a time.",
        metavar="N",
        of_stage=True,
    ),
    duration("drain", help="How long requests in flight may go on after the last send.", default="60s", of_stage=True),
    Setting(
        "max_in_flight",
        read_whole,
        "Open loop: arrivals beyond this many in flight wait, and the wait counts.",
        metavar="N",
        of_stage=True,
    ),
    Setting(
        "late",
        read_late,
        "Open loop: send what is late, or drop what would be later than this, and count it.",
        default="send",
        metavar="send|drop:TIME",
        of_stage=True,
        field="late_drop_s",
        read_field=read_seconds,
    ),
    Setting(
        "repeat",
        read_whole,
        "Run each stage so many times, so that there is a spread between runs.",
        "1",
        "K",
        makes_stages=True,
    ),
    Setting(
        "shuffle",
        read_switch,
        "With --repeat: the stages of each round in an order of its own, so that no drift passes for an effect.",
        True,
        makes_stages=True,
    ),
    duration(
        "cooldown",
        help="Between two stages: wait so long, and until the endpoint answers a single request as quickly as before.",
        default="0s",
    ),
    Setting(
        "early_stop",
        read_switch,
        "Leave out the higher loads once most requests fail, or the endpoint does not keep up with a rate.",
        False,
    ),
    Setting(
        "abort_on",
        read_abort_on,
        "Break the run off once more than a share of the requests that ended within a time failed: error-rate>50%/30s, "
        "several with commas, or never (auto: that one in an open loop, none in a closed one).",
        "auto",
        "CONDITION[,...]|never",
    ),
    Setting("warms_up", read_switch, default=False, of_stage=True),
)
