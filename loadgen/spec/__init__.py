"""What the user asked for: one frozen value, checked at the door.

Built from flags and a spec file (settings.py, spec_file.py) and written, resolved, to run.json, from where the same run
can be made again. Past this door there are only values.
"""

import re
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Final

from loadgen.distribution import Distribution, FromFile, Prefixes, parse_distribution, parse_lengths, parse_prefixes
from loadgen.durations import MOST_NS
from loadgen.schedule.arrivals import Process, parse_process
from loadgen.schedule.profile import Profile, parse_profile

USAGES: Final = ("final", "continuous", "none")
TRANSPORTS: Final = ("auto", "kernel", "aiohttp")
HISTORIES: Final = ("real", "recorded")
BALANCES: Final = ("round-robin", "least-in-flight")
SLO_METRICS: Final = ("ttft", "tpot", "itl", "e2e")

# These bring their own times: no rate goes with them, and no ramp.
TIMED_ARRIVALS: Final = ("burst", "trace", "recorded")
OWN_LENGTH: Final = ("trace", "recorded")
"""These last as long as their file."""

CONVERSATIONS: Final = ("auto", "sessions", "first", "last")
"""What becomes of a conversation: a session with all its turns, its first turn alone, or one request with all of it."""
NONCES: Final = ("auto", "always", "never")
MOST_TIME_SCALE: Final = 1e6

MOST_TARGETS: Final = 1000
MOST_WEIGHT: Final = 1e9

# What the ids of requests (32 bits in a stage) and the nonces that open the prompts can tell apart.
MOST_REQUESTS: Final = 1 << 32
MOST_STAGES: Final = 1024

# More than any machine has descriptors for; how many this one has is asked later.
MOST_CONCURRENCY: Final = 1 << 20

# More than a machine can send.
MOST_RATE: Final = 1_000_000

# Ten times the longest context there is; a typing error must not fill the memory with prompts.
MOST_INPUT_TOKENS: Final = 10_000_000
MOST_OUTPUT_TOKENS: Final = (1 << 31) - 1

MOST_TURNS: Final = 1000
"""Of a session. Where a distribution has no end, what it draws beyond is cut to this."""
MOST_RETRIES: Final = 100
MOST_REPEATS: Final = 1000
MOST_S: Final = MOST_NS / 1e9


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One level of load: closed loop with `concurrency`, open loop with `arrivals` and, but for burst and trace, `rate`.

    It ends by one of requests, sessions and duration_s; a trace may have none of them, and ends where the file does.
    """

    name: str | None
    concurrency: Profile | None
    rate: Profile | None
    """Arrivals a second."""
    arrivals: Process | None
    requests: int | None
    sessions: int | None
    duration_s: float | None
    ramp_up_s: float
    warmup_s: float
    warmup_requests: int
    drain_s: float
    max_in_flight: int | None
    late_drop_s: float | None
    """None: late requests are sent, however late."""
    warms_up: bool = False
    """Only there to warm the endpoint up: it is no result."""
    warmup_follows: bool = field(default=False, compare=False)
    """Nobody gave a warm-up, and it may become as long as a response takes, once that is known (job/warm_up.py). Not in
    run.json, where it is settled."""

    @property
    def is_open_loop(self) -> bool:
        """Whether requests are due at times of their own, not when the one before has ended."""
        return self.concurrency is None

    @property
    def load(self) -> Profile | None:
        """Concurrency or rate over time; None where the arrivals bring their own times."""
        return self.rate if self.concurrency is None else self.concurrency

    @property
    def is_over_time(self) -> bool:
        """Whether the load is a course of its own, and no level that is held for as long as one likes."""
        if self.load is None:
            return self.arrivals is not None and self.arrivals.kind in OWN_LENGTH
        return self.load.length_ns is not None or not self.load.is_constant


@dataclass(frozen=True, slots=True)
class Cancel:
    """Users who leave: this share of the requests, after so many output events (unit "count") or so long ("duration")."""

    share: float
    after: Distribution

    @property
    def text(self) -> str:
        """As --cancel takes it."""
        return self.after.text if self.share == 1 else f"{plain(self.share)}@{self.after.text}"


@dataclass(frozen=True, slots=True)
class Asking:
    """How an endpoint is asked: what a run says, and each of its targets may say of its own."""

    model: str | None
    api: str
    """A dialect's name, or "auto" until the URL has been looked at."""
    api_key_env: str | None
    """The environment variable that holds the key; None: the API's own."""
    api_key_file: str | None
    header: tuple[tuple[str, str], ...]
    header_env: tuple[tuple[str, str], ...]
    """(header, the environment variable that holds its value)."""
    usage: str
    return_token_ids: bool
    max_tokens_field: str | None
    body_template: Any
    """JSON; None: the API's own body."""
    extra_body: dict[str, Any]
    body_field: dict[str, Any]
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class TargetSpec(Asking):
    """What a share of the requests goes to, where a run has several models, adapters or endpoints (targets.py)."""

    name: str
    weight: float
    """Its share of the units, beside those of the others."""
    url: tuple[str, ...]
    """Several: the requests are balanced over them."""


@dataclass(frozen=True, slots=True)
class Spec(Asking):
    """One run, as asked for. Durations in seconds, as a reader of run.json expects them.

    Where there are `targets`, `url` and how it is asked are those of the first one.
    """

    url: str
    inputs: int
    """Of one request: its prompt is sent as so many."""
    tools: tuple[dict[str, Any], ...]
    image: tuple[str, ...]
    """WIDTHxHEIGHT, files and URLs."""
    stages: tuple[StageSpec, ...]
    input_tokens: Distribution | FromFile | None
    """Of a synthetic prompt; None: as the data set, the trace or the pairs say."""
    output_tokens: Distribution | FromFile | None
    prefix_tokens: int
    """Of a system prompt that all requests share."""
    turns: Distribution | None
    """None: requests of one turn each, no sessions."""
    history: str
    think: Distribution | None
    cancel: Cancel | None
    retries: int
    seed: int
    workers: int | None
    """None: as many as the cores give."""
    cpus: tuple[int, ...] | None
    transport: str
    spin: bool
    tls_ca: str | None
    insecure: bool
    proxy: str | None
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    timeout_s: float
    cooldown_s: float
    early_stop: bool
    slo: dict[str, dict[str, float | None]] | None
    """Per metric of SLO_METRICS: {"percentile": 0..100 or None, "limit_ms"}."""
    traceparent: bool = False
    """A W3C Trace Context header with each request."""
    prefixes: Prefixes | None = None
    lengths: str | None = None
    """A file with pairs of input and output lengths."""
    tokenizer: str | None = None
    """Path of a tokenizer.json, or tiktoken:ENCODING."""
    calibrate_prompts: bool = False
    dataset: str | None = None
    """FILE[:FORMAT], as are the two below."""
    trace: str | None = None
    replay: str | None = None
    """A run directory."""
    columns: dict[str, str] | None = None
    conversations: str = CONVERSATIONS[0]
    nonce: str = NONCES[0]
    once: bool = False
    skip_bad_lines: bool = False
    time_scale: float = 1.0
    from_s: float = 0.0
    to_s: float | None = None
    sample: float = 1.0
    """Of the trace's sessions (of rows without one, the rows): this share."""
    save_bodies: bool = False
    abort_on: str = "auto"
    """As conditions.py reads it."""
    targets: tuple[TargetSpec, ...] = ()
    """Only where there are several, or one with several URLs."""
    balance: str = BALANCES[0]

    def to_json(self) -> dict[str, Any]:
        """As it stands in run.json: plain values, no secret (a proxy's password is left out)."""
        values = _fields_to_json(self, "url")
        values["stages"] = [_fields_to_json(stage) for stage in self.stages]
        for stage in values["stages"]:
            del stage["warmup_follows"]
        values["targets"] = [_fields_to_json(target, "name", "weight", "url") for target in self.targets]
        for name in ("input_tokens", "output_tokens"):
            lengths = getattr(self, name)
            if isinstance(lengths, Distribution) and lengths.kind == "fixed":
                values[name] = int(lengths.a)
        values["proxy"] = _without_password(self.proxy)
        return values


def workload_file(spec: Spec) -> str | None:
    """The file that says what is asked; None where prompts are made up and their lengths drawn."""
    return spec.dataset or spec.trace or spec.replay


def most_turns(spec: Spec) -> int:
    """The most turns that a session of this spec can have."""
    if spec.turns is None:
        return 1
    return MOST_TURNS if spec.turns.most is None else spec.turns.most


def spec_of_json(values: dict[str, Any]) -> Spec:
    """The spec that to_json() wrote. What a user may have edited goes through spec_file instead, which checks it."""

    def profile(value: int | float | str | None) -> Profile | None:
        return None if value is None else parse_profile(plain(value))

    stages = tuple(
        StageSpec(
            **row
            | {
                "concurrency": profile(row["concurrency"]),
                "rate": profile(row["rate"]),
                "arrivals": None if row["arrivals"] is None else parse_process(row["arrivals"]),
            }
        )
        for row in values["stages"]
    )
    return Spec(
        **values
        | {
            "stages": stages,
            "turns": None if values["turns"] is None else parse_distribution(values["turns"], "count"),
            "think": None if values["think"] is None else parse_distribution(values["think"], "duration"),
            "cancel": None if values["cancel"] is None else parse_cancel(values["cancel"]),
            "input_tokens": None if values["input_tokens"] is None else parse_lengths(str(values["input_tokens"])),
            "output_tokens": None if values["output_tokens"] is None else parse_lengths(str(values["output_tokens"])),
            "prefixes": None if values.get("prefixes") is None else parse_prefixes(values["prefixes"]),
            "cpus": None if values["cpus"] is None else tuple(values["cpus"]),
            **{name: _pairs(values[name]) for name in _PAIRS},
            "tools": tuple(values["tools"]),
            "image": tuple(values["image"]),
            "targets": tuple(
                TargetSpec(**row | {"url": tuple(row["url"]), **{name: _pairs(row[name]) for name in _PAIRS}})
                for row in values.get("targets", ())
            ),
        }
    )


_PAIRS: Final = ("header", "header_env")


def _pairs(rows: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in rows)


def parse_cancel(text: str) -> Cancel:
    """[SHARE%@]AFTER, as in 20, exp:3s, 30%@20 or 0.3@uniform:1s..5s. ValueError, worded for the user."""
    share, at, after = text.rpartition("@")
    written = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", share.strip()) if at else re.fullmatch("(1)()", "1")
    part = 0.0 if written is None else float(Decimal(written[1]) / (100 if written[2] else 1))
    if not 0 < part <= 1:
        raise ValueError(f"{share!r} is no share of the requests; allowed is above 0 and up to 1 or 100%, as in 30%@20")
    is_time = re.search(r"[0-9.] ?(?:ns|us|ms|s|m|h)(?![a-z])", after) is not None
    return Cancel(part, parse_distribution(after, "duration" if is_time else "count"))


def default_warmup_s(duration_s: float | None, *, over_time: bool = False) -> float:
    """A tenth of the measured time, at most 10 s; none where requests are counted or the load changes over time."""
    return 0.0 if duration_s is None or over_time else min(duration_s / 10, 10.0)


def plain(value: float | str) -> str:
    """A number as compact texts write it, without an exponent and exact: 1e-07 -> 0.0000001."""
    return value if isinstance(value, str) else format(Decimal(repr(value)), "f")


def _fields_to_json(value: Any, *first: str) -> dict[str, Any]:
    """Those that a reader looks for `first` stand there."""
    names = dict.fromkeys([*first, *(one.name for one in fields(value))])
    return {name: _to_json(getattr(value, name)) for name in names}


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Profile) and len(value.segments) == 1 and value.length_ns is None:
        return int(value.first) if value.first.is_integer() else value.first
    return getattr(value, "text", value)


def _without_password(url: str | None) -> str | None:
    return url if url is None else re.sub(r"//[^/@]*@", "//***@", url)
