"""What users do: turns, pauses, patience."""

from typing import Final

from loadgen.spec import HISTORIES
from loadgen.spec.notation import read_cancel, read_switch, read_think, read_turns, read_whole
from loadgen.spec.settings.setting import Setting, choice

USERS: Final = (
    Setting(
        "turns",
        read_turns,
        "Sessions of this many turns, a number or a DIST such as uniform:2..6 or exp:4.",
        metavar="N|DIST",
    ),
    choice(
        "history",
        HISTORIES,
        help="With --turns: later turns hold the model's own answers, or prepared ones.",
    ),
    Setting(
        "think",
        read_think,
        "A user's pause before the next request: 2s, uniform:1s..5s, exp:2s, normal:2s,500ms or lognormal:2s,0.5 "
        "(closed loop, or between the turns of a session).",
        metavar="DIST",
    ),
    Setting(
        "cancel",
        read_cancel,
        "Leave after so many tokens (20, uniform:10..50) or so long (2s, exp:3s); 30%@20 for a share of the requests.",
        metavar="[SHARE%@]AFTER",
    ),
    Setting(
        "retry",
        read_whole,
        "Try again up to N times after a 429 or 503, honouring Retry-After.",
        "0",
        "N",
        field="retries",
    ),
    Setting("ignore_eos", read_switch, "Ask the server to go on to max_tokens (vLLM, SGLang).", False),
)
