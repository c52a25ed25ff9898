"""Spec + workload -> plans: the target, the bytes of the requests, and each worker's slice of every stage."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from loadgen import __version__
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import Ask
from loadgen.distribution import Distribution, FromFile, Prefixes
from loadgen.errors import UsageError
from loadgen.forecast import Means
from loadgen.nonces import Nonces
from loadgen.plan import (
    ClosedLoad,
    Limits,
    OpenLoad,
    PromptPool,
    ScriptPlan,
    StagePlan,
    Talk,
    Target,
    UsersPlan,
    WorkerPlan,
)
from loadgen.preparation import ring_bytes
from loadgen.schedule.stage import Schedule, schedule
from loadgen.schema import SCHEMA_VERSION
from loadgen.spec import Spec, StageSpec, most_turns, workload_file
from loadgen.tokens import load
from loadgen.workload import formats, lengths, traces
from loadgen.workload.containers import BadLine, raise_it
from loadgen.workload.prompts import Lexicon
from loadgen.workload.script import USUAL_OUTPUT_TOKENS, Calibration, Recipe, Script
from loadgen.workload.survey import Lengths, survey

# Enough bodies that no two streams in flight have to share one, few enough to be made and held at once.
MAX_BODIES: Final = 256
MAX_POOL_BYTES: Final = 32 * 1024 * 1024

NONCE_BITS: Final = 42
"""2^32 requests in each of 1,024 stages; of 64 words, 7 of them."""

MOST_SESSION_TURNS: Final = 128
"""Of a conversation of a data set; what is longer ends there."""

TRIED_UNITS: Final = 100
"""Units of a file that are made before anything is called, to refuse what cannot be used."""

TRACE_CONNECTIONS: Final = 32
"""Of a trace whose rate at the beginning is not known."""

MAX_ANSWERS: Final = 64
"""Made-up answers, for histories that do not quote the model's."""

# Connections of an open loop, a worker: open before the start is what a second of arrivals could need, and spare are kept
# what comes within a tenth of a second, longer than a connect takes.
MOST_OPENED_BEFORE: Final = 1024
BLINK_NS: Final = 100 * NS_PER_MS
LEAST_SPARE: Final = 4
MOST_SPARE: Final = 128

# A word that stands in for the nonce while a body is made; JSON leaves it as it is.
_MARK: Final = "@nonce@"


def target(spec: Spec) -> Target:
    """Where the requests go. `--url` may be a base (http://h:8000, https://h/v1) or the whole path.

    UsageError where it is the path of another API.
    """
    parts = urlsplit(spec.url)
    tls = parts.scheme == "https"
    assert parts.hostname is not None
    base = parts.path.rstrip("/")
    # The longest that fits: /chat/completions ends in /completions too.
    routes = {api: dialect.PATH for api, dialect in DIALECTS.items() if base.endswith(dialect.PATH)}
    api = max(routes, key=lambda name: len(routes[name]), default=spec.api)
    if api != spec.api:
        raise UsageError(f"--api: {spec.api} does not go with a --url that ends in {routes[api]}; give --api {api}")
    path = base if routes else f"{base or '/v1'}{DIALECTS[api].PATH}"
    return Target(
        host=parts.hostname,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        path=f"{path}?{parts.query}" if parts.query else path,
        tls_ca=spec.tls_ca,
        insecure=spec.insecure,
        proxy=spec.proxy,
    )


def limits(spec: Spec) -> Limits:
    """The limits of a request in ns."""
    return Limits(
        connect_ns=_ns(spec.connect_timeout_s),
        first_byte_ns=_ns(spec.first_byte_timeout_s),
        idle_ns=_ns(spec.idle_timeout_s),
        total_ns=_ns(spec.timeout_s),
    )


def head(where: Target, key: str | None) -> bytes:
    """Request line and headers, less Content-Length and the blank line. UsageError if the key cannot be sent."""
    default_port = 443 if where.tls else 80
    host = f"[{where.host}]" if ":" in where.host else where.host
    lines = [
        f"POST {where.path} HTTP/1.1",
        f"Host: {host}" if where.port == default_port else f"Host: {host}:{where.port}",
        f"User-Agent: loadgen/{__version__}",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",  # a compressing gateway holds events back
        "Content-Type: application/json",
    ]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    # A line break in the key (a file read whole, a .env of Windows) would begin a header of its own.
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise UsageError(
            "OPENAI_API_KEY, --url: the key or the URL holds characters that HTTP cannot send; allowed is printable ASCII"
        )
    return "\r\n".join(lines).encode("ascii")


def has_script(spec: Spec) -> bool:
    """Whether requests are prepared while the run goes on; else all that differs in them is their nonce."""
    return (
        workload_file(spec) is not None
        or spec.lengths is not None
        or spec.prefixes is not None
        or spec.nonce == "never"
        or not all(_is_one(lengths) for lengths in (spec.input_tokens, spec.output_tokens))
    )


def _is_one(tokens: Distribution | FromFile | None) -> bool:
    return isinstance(tokens, Distribution) and tokens.is_fixed


def _file(spec: Spec) -> formats.Reading | None:
    """How the data set or trace is read. UsageError where it is of no known format."""
    written = workload_file(spec)
    if written is None:
        return None
    columns = spec.columns or {}
    if unknown := columns.keys() - formats.FIELDS.keys():
        raise UsageError(f"--columns: {min(unknown)!r} is no field; allowed are {', '.join(formats.FIELDS)}")
    path, colon, format_ = written.rpartition(":")
    if not colon or format_ not in formats.FORMATS or spec.replay is not None:
        path, format_ = written, ""
    how = formats.reading(path, "capture" if spec.replay is not None else format_ or None, columns, spec.conversations)
    if spec.trace is not None and not how.has_times:
        raise UsageError(
            f"--trace: {path} is {how.format}, which has no times; allowed is --dataset, or a column of times with "
            "--columns timestamp=NAME"
        )
    if spec.input_tokens is not None and not how.has_times and how.format != "lengths":
        raise UsageError(f"--input-tokens: the prompts are those of {path}; leave it out")
    return how


def has_sessions(spec: Spec, how: formats.Reading | None) -> bool:
    """Whether the units are sessions of several turns."""
    if spec.turns is not None:
        return True
    if how is None:
        return False
    return how.conversations == "sessions" or (how.conversations == "auto" and how.format == "sharegpt")


def recipe(spec: Spec, model: str, calibration: Calibration = Calibration()) -> Recipe:  # noqa: B008 - a value
    """What the preparer makes units of. UsageError where a file is of no known format."""
    how = _file(spec)
    sessions = has_sessions(spec, how)
    plays = any(stage.arrivals is not None and stage.arrivals.kind == "recorded" for stage in spec.stages)
    if how is not None:
        for name in ("requests", "sessions"):
            if sessions == (name == "requests") and any(getattr(stage, name) is not None for stage in spec.stages):
                other = "sessions" if sessions else "requests"
                raise UsageError(f"--{name}: {how.path} has {other} as its units; give --{other} instead")
    prefixes = spec.prefixes
    if prefixes is None and spec.prefix_tokens:
        prefixes = Prefixes(1, spec.prefix_tokens)
    return Recipe(
        model=model,
        seed=spec.seed,
        ignore_eos=spec.ignore_eos,
        most_turns=turns_of(spec, how),
        real_history=spec.history == "real",
        turns=spec.turns,
        input_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        pairs_file=spec.lengths,
        prefixes=prefixes,
        tokenizer=spec.tokenizer,
        nonce=spec.nonce,
        file=how,
        columns=spec.columns,
        course=course(spec) if plays else None,
        once=spec.once,
        skip_bad_lines=spec.skip_bad_lines,
        calibration=calibration,
    )


def course(spec: Spec) -> traces.Course:
    """What of the trace is played."""
    return traces.Course(_ns(spec.from_s), None if spec.to_s is None else _ns(spec.to_s), spec.time_scale, spec.sample)


def turns_of(spec: Spec, how: formats.Reading | None) -> int:
    """The most turns of a unit: part of how requests are numbered."""
    if how is not None and has_sessions(spec, how):
        return MOST_SESSION_TURNS
    return most_turns(spec)


def try_script(spec: Spec, model: str) -> None:
    """Make the first units, as the preparer will. UsageError, with file and line, where that does not work."""
    made = Script(recipe(spec, model))
    body = DIALECTS[spec.api].body
    for _, unit in zip(range(TRIED_UNITS), made.units(0), strict=False):
        for asked in unit.asked:
            try:
                orjson.dumps(body(asked.ask))
            except UsageError as error:
                raise UsageError(f"{workload_file(spec)}: line {unit.line}: {error}") from None


def longest_tokens(spec: Spec) -> int:
    """The longest prompt that is to be made up, as far as the spec says."""
    longest = 0
    for side in ("input_tokens",):
        tokens = getattr(spec, side)
        if tokens is None:
            continue
        found = lengths.resolved(tokens, side, spec.columns or {})
        longest = found.most or (found.draw(0.999999) if isinstance(found, Distribution) else 0)
    return longest + spec.prefix_tokens + (spec.prefixes.tokens if spec.prefixes is not None else 0)


def means(spec: Spec, workers: int) -> Means:
    """What a request is on average; a data set or trace is read through for it, a packed or long one in part."""
    columns = spec.columns or {}
    prefix_tokens = spec.prefix_tokens + (spec.prefixes.tokens if spec.prefixes is not None else 0)
    rings = workers * ring_bytes(workers, longest_tokens(spec)) if has_script(spec) else 0
    how = _file(spec)
    seen = None
    if how is not None:
        tokenizer = load(spec.tokenizer) if spec.tokenizer is not None else None
        on_bad = _pass_over if spec.skip_bad_lines else raise_it
        seen = survey(how, course=course(spec), seed=spec.seed, tokenizer=tokenizer, on_bad=on_bad)
    if spec.lengths is not None:
        pairs = lengths.pairs(spec.lengths, columns)
        sums = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
        return Means(sums[0], sums[1], prefix_tokens, ring_bytes=rings)

    def mean(side: str) -> float:
        tokens: Distribution | FromFile | None = getattr(spec, side)
        if tokens is not None:
            return lengths.resolved(tokens, side, columns).mean
        assert seen is not None
        told: Lengths = getattr(seen, side)
        return told.mean if told.counts else float(USUAL_OUTPUT_TOKENS)

    found = Means(mean("input_tokens"), mean("output_tokens"), prefix_tokens, ring_bytes=rings)
    if seen is None:
        return found
    # The survey's input lengths hold the turns before already.
    turns = seen.requests / max(seen.units, 1) if has_sessions(spec, how) else 1.0
    return replace(found, turns=turns, arrivals=seen.units)


def _pass_over(_: BadLine) -> None:
    """It is counted when its turn comes."""


def pool(
    spec: Spec,
    model: str,
    head_bytes: bytes,
    calibration: Calibration = Calibration(),  # noqa: B008 - a value
) -> PromptPool:
    """The requests, seeded: the same spec and seed give the same bytes. Without bodies where there is a script."""
    if has_script(spec):
        return PromptPool(head_bytes, (), (b"",), 0, spec.seed)
    assert isinstance(spec.input_tokens, Distribution)
    assert isinstance(spec.output_tokens, Distribution)
    input_tokens, output_tokens = int(spec.input_tokens.a), int(spec.output_tokens.a)
    lexicon = Lexicon(load(spec.tokenizer) if spec.tokenizer is not None else None)
    randomness = random.Random(spec.seed)
    content = calibration.content(input_tokens)
    vocabulary = tuple(f"{word} ".encode() for word in lexicon.nonce_words)
    bits = (len(vocabulary) - 1).bit_length()
    nonce_words = min(-(-NONCE_BITS // max(bits, 1)), max(content // lexicon.nonce_tokens, 1))
    opening = Nonces(vocabulary, nonce_words, spec.seed).nonce(0).decode()
    system = lexicon.text(spec.prefix_tokens, randomness)
    bodies: list[tuple[bytes, bytes]] = []
    texts: list[str] = []
    n_bytes = 0
    while len(bodies) < MAX_BODIES and n_bytes < MAX_POOL_BYTES:
        text = lexicon.text(content, randomness, opening)
        ask = Ask(model, _MARK + text, output_tokens, spec.ignore_eos, system)
        before, after = orjson.dumps(DIALECTS[spec.api].body(ask)).split(_MARK.encode(), 1)
        bodies.append((before, after))
        texts.append(text)
        n_bytes += len(before) + len(after)
    talk = None
    if spec.turns is not None:
        recorded = range(0 if spec.history == "real" else MAX_ANSWERS)
        answers = tuple(lexicon.text(output_tokens, randomness) for _ in recorded)
        talk = Talk(model, system, output_tokens, spec.ignore_eos, tuple(texts), answers)
    return PromptPool(
        head=head_bytes,
        bodies=tuple(bodies),
        vocabulary=vocabulary,
        nonce_words=nonce_words,
        seed=spec.seed,
        talk=talk,
        wanted_input_tokens=input_tokens + spec.prefix_tokens,
        wanted_output_tokens=output_tokens,
    )


def schedules(spec: Spec) -> list[Schedule]:
    """Every stage over time. UsageError where one cannot be made."""
    return [
        _recorded(spec, stage)
        if stage.arrivals is not None and stage.arrivals.kind == "recorded"
        else schedule(stage, number, spec.seed)
        for number, stage in enumerate(spec.stages)
    ]


def _recorded(spec: Spec, stage: StageSpec) -> Schedule:
    """A trace in its own time: how long it lasts, and how fast it begins; when each unit is due only its reader knows."""
    how = _file(spec)
    assert how is not None
    if stage.warmup_requests:
        raise UsageError("--warmup-requests: the times of a trace are read while it is played; give --warmup TIME")
    plays = course(spec)
    length_ns = traces.length_ns(how, plays)
    if not length_ns:
        raise UsageError(f"--from, --to: {how.path} has nothing there to play; allowed is a part that has rows")
    warmup_ns = _ns(stage.warmup_s)
    if stage.duration_s is not None:
        length_ns = min(length_ns, warmup_ns + _ns(stage.duration_s))
    rate = traces.first_rate_per_s(how, plays, spec.seed)
    return Schedule(warmup_ns, max(length_ns - warmup_ns, 0), rate)


def stage_name(stage: StageSpec) -> str:
    """The user's name for it, or what its load is."""
    if stage.name is not None:
        return stage.name
    if stage.concurrency is not None:
        return f"concurrency {stage.concurrency.text}"
    if stage.rate is None:
        assert stage.arrivals is not None
        if stage.arrivals.kind == "recorded":
            return "as recorded"
        return stage.arrivals.text.replace(":", " ", 1)
    return f"rate {stage.rate.text}{'/s' if stage.rate.length_ns is None and stage.rate.is_constant else ''}"


def stages(spec: Spec, planned: Sequence[Schedule]) -> list[dict[str, Any]]:
    """The planned stages, as they stand in run.json and in every capture."""
    return [
        {
            "stage": number,
            "name": stage_name(stage),
            "load": _load(spec, stage, made),
            "ramp_up_s": stage.ramp_up_s,
            "warmup_s": stage.warmup_s,
            "warmup_requests": stage.warmup_requests,
            "duration_s": None if made.duration_ns is None else made.duration_ns / NS_PER_S,
            "requests": stage.requests,
            "sessions": stage.sessions,
            "arrivals_planned": made.arrivals_planned,
        }
        for number, (stage, made) in enumerate(zip(spec.stages, planned, strict=True))
    ]


def _load(spec: Spec, stage: StageSpec, made: Schedule) -> dict[str, Any]:
    load: dict[str, Any] = {"mode": "rate" if stage.is_open_loop else "concurrency"}
    load["value"] = (
        int(made.value) if not stage.is_open_loop and made.value == int(made.value) else round(made.value, 6)
    )
    if stage.arrivals is not None:
        load["arrivals"] = stage.arrivals.text
    if stage.load is not None and not stage.load.is_constant:
        load["profile"] = stage.load.text
    if spec.think is not None:
        load["think"] = spec.think.text
    if has_sessions(spec, _file(spec)):
        load["unit"] = "session"
    if stage.max_in_flight is not None:
        load["max_in_flight"] = stage.max_in_flight
    if stage.late_drop_s is not None:
        load["late_drop_s"] = stage.late_drop_s
    return load


def share(total: int, worker: int, workers: int) -> int:
    """A worker's part of a whole number; the parts add up to it exactly, and the first workers get the larger ones."""
    return total // workers + (worker < total % workers)


def most_in_flight(spec: Spec, planned: Sequence[Schedule]) -> int | None:
    """The most units in flight at any time, in all workers together; None where an open loop sets no limit."""
    limits = [
        stage.max_in_flight if stage.is_open_loop else made.most_in_flight
        for stage, made in zip(spec.stages, planned, strict=True)
    ]
    return None if None in limits else max(limit for limit in limits if limit is not None)


def worker_stages(
    spec: Spec, planned: Sequence[Schedule], worker: int, workers: int, most_connections: int
) -> tuple[StagePlan, ...]:
    """One worker's slice of every stage; a worker can hold `most_connections`."""
    return tuple(
        StagePlan(
            stage=number,
            load=_open_load(stage, made, worker, workers, most_connections)
            if stage.is_open_loop
            else _closed_load(stage, made, worker, workers),
            warmup_ns=made.warmup_ns,
            # The schedule of an open loop knows when its warm-up ends.
            warmup_requests=0 if stage.is_open_loop else _dealt(stage.warmup_requests, made, worker, workers),
            duration_ns=made.duration_ns,
            drain_ns=_ns(stage.drain_s),
        )
        for number, (stage, made) in enumerate(zip(spec.stages, planned, strict=True))
    )


def _closed_load(stage: StageSpec, made: Schedule, worker: int, workers: int) -> ClosedLoad:
    assert made.levels is not None
    levels: list[tuple[int, int]] = []
    for from_ns, level in made.levels:
        mine = share(level, worker, workers)
        if not levels or levels[-1][1] != mine:
            levels.append((from_ns, mine))
    all_slots = made.most_in_flight
    slots = share(all_slots, worker, workers)
    units = stage.requests if stage.requests is not None else stage.sessions
    if units is not None:
        units += stage.warmup_requests if stage.requests is not None else 0
        units = _dealt(units, made, worker, workers)
    return ClosedLoad(tuple(levels), slots, all_slots, units)


def _dealt(units: int, made: Schedule, worker: int, workers: int) -> int:
    """By slot, not by worker: a worker with more slots is through with more of them in the same time."""
    all_slots = made.most_in_flight
    return units // all_slots * share(all_slots, worker, workers) + share(units % all_slots, worker, workers)


def _open_load(stage: StageSpec, made: Schedule, worker: int, workers: int, most_connections: int) -> OpenLoad:
    mine: array[int] | None = None
    if made.due_ns is not None:
        mine = array("q")
        mine.frombytes(made.due_ns[worker::workers].tobytes())
    places = most_connections
    if stage.max_in_flight is not None:
        places = min(places, share(stage.max_in_flight, worker, workers))
    if made.due_ns is None:
        in_a_second = max(-(-round(2 * made.value) // workers), TRACE_CONNECTIONS)
        in_a_blink = in_a_second // 4
    else:
        in_a_second = -(-made.most_within(NS_PER_S) // workers)
        in_a_blink = -(-made.most_within(BLINK_NS) // workers)
    return OpenLoad(
        due_ns=mine,
        connections=min(in_a_second, MOST_OPENED_BEFORE, places),
        spare=min(max(in_a_blink, LEAST_SPARE), MOST_SPARE),
        max_in_flight=places,
        late_drop_ns=None if stage.late_drop_s is None else _ns(stage.late_drop_s),
    )


def users(spec: Spec) -> UsersPlan:
    """How users behave."""
    how = _file(spec)
    return UsersPlan(
        seed=spec.seed,
        think=spec.think,
        turns=spec.turns,
        most_turns=turns_of(spec, how),
        scripted_sessions=how is not None and has_sessions(spec, how),
        real_history=spec.history == "real",
        cancel_share=spec.cancel.share if spec.cancel is not None else 0.0,
        cancel_after=spec.cancel.after if spec.cancel is not None else None,
        retries=spec.retries,
    )


def worker_plans(
    spec: Spec,
    planned: Sequence[Schedule],
    *,
    where: Target,
    model: str,
    key: str | None,
    transport: str,
    cores: list[int | None],
    run_id: str,
    host: dict[str, Any],
    capture_paths: list[str],
    board_fd: int,
    most_connections: int,
    scripts: Sequence[ScriptPlan] | None = None,
    calibration: Calibration = Calibration(),  # noqa: B008 - a value
) -> list[WorkerPlan]:
    """A plan a worker; `cores`, `capture_paths` and `scripts` hold one entry for each."""
    workers = len(cores)
    requests = pool(spec, model, head(where, key), calibration)
    metadata = {
        "schema": SCHEMA_VERSION,
        "loadgen": __version__,
        "run_id": run_id,
        "workers": workers,
        "host": host["name"],
        "kernel": host["kernel"],
        "clock_source": host["clock_source"],
        "transport": transport,
        "spec": spec.to_json(),
        "stages": stages(spec, planned),
    }
    return [
        WorkerPlan(
            worker=worker,
            workers=workers,
            core=core,
            transport=transport,
            spin=spec.spin,
            dialect=spec.api,
            target=where,
            limits=limits(spec),
            stages=worker_stages(spec, planned, worker, workers, most_connections),
            users=users(spec),
            pool=requests,
            script=None if scripts is None else scripts[worker],
            tokenizer=spec.tokenizer,
            capture_path=path,
            metadata=metadata,
            secrets=(key,) if key else (),
            board_fd=board_fd,
        )
        for worker, (core, path) in enumerate(zip(cores, capture_paths, strict=True))
    ]


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
