"""Spec + workload -> plans: the targets, the bytes of the requests, and each worker's slice of every stage."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from loadgen import __version__, recipes
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.dealing import Deal, deal
from loadgen.dialects import AUTO, find, recognised, spoken
from loadgen.dialects.answer import Ask
from loadgen.dialects.credentials import NOBODY, Credentials, header_fields
from loadgen.dialects.dialect import merged
from loadgen.distribution import Distribution
from loadgen.errors import UsageError
from loadgen.nonces import Nonces
from loadgen.plan import (
    ClosedLoad,
    Endpoint,
    Limits,
    OpenLoad,
    PromptPool,
    Route,
    ScriptPlan,
    Share,
    StagePlan,
    Talk,
    Target,
    Traceparent,
    UsersPlan,
    WorkerPlan,
)
from loadgen.preparation import Speaking
from loadgen.schedule.stage import Schedule, schedule
from loadgen.schema import SCHEMA_VERSION
from loadgen.spec import Spec, StageSpec, targets
from loadgen.tokens import load
from loadgen.wording import Wording
from loadgen.workload import traces
from loadgen.workload.images import url_of
from loadgen.workload.prompts import Lexicon
from loadgen.workload.script import Calibration

# Enough bodies that no two streams in flight have to share one, few enough to be made and held at once.
MAX_BODIES: Final = 256
MAX_POOL_BYTES: Final = 32 * 1024 * 1024

NONCE_BITS: Final = 42
"""2^32 requests in each of 1,024 stages; of 64 words, 7 of them."""

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


def wording(spec: Spec) -> Wording:
    """How requests are worded. The spec's API is known (resolved)."""
    return Wording(
        api=spec.api,
        usage=spec.usage,
        token_ids=spec.return_token_ids,
        max_tokens_field=spec.max_tokens_field,
        tools=spec.tools,
        inputs=spec.inputs,
        template=spec.body_template,
        extra=merged(spec.extra_body, spec.body_field),
    )


def wordings(spec: Spec) -> list[Wording]:
    """That of each target."""
    return [wording(one) for one in targets.each(spec)]


def speaking(spec: Spec) -> list[Speaking]:
    """How the preparer says to each target what is asked."""
    return [Speaking(one.model or "", one.ignore_eos, wording(one)) for one in targets.each(spec)]


def dealt(spec: Spec) -> Deal:
    """How units are dealt to the targets."""
    return deal(spec.seed, targets.weights(spec))


def resolved(spec: Spec) -> Spec:
    """The spec with the API, and where the URL names it the model, that the URL of each target tells.

    UsageError if there is no such API, or if it does not go with the URL, or not with what is asked of it.
    """
    for number, one in enumerate(targets.each(spec)):
        try:
            found = [_resolved(replace(one, url=url)) for url in targets.urls(spec, number)]
        except UsageError as error:
            raise UsageError(f"{error}{_of_target(spec, number)}") from None
        first, *others = found
        for other in others:
            if (other.api, other.model) != (first.api, first.model):
                raise UsageError(
                    f"--url: {first.url} is of {_told(first)}, {other.url} of {_told(other)}, and requests are balanced "
                    f"over what is the same everywhere{_of_target(spec, number)}; give two --target instead"
                )
        spec = targets.with_target(spec, number, first)
    return spec


def _told(spec: Spec) -> str:
    return f"the {spec.api} API" + (f" with the model {spec.model}" if spec.model else "")


def _of_target(spec: Spec, number: int) -> str:
    return f" (target {targets.names(spec)[number]})" if len(spec.targets) > 1 else ""


def _resolved(spec: Spec) -> Spec:
    parts = urlsplit(spec.url)
    address = f"{parts.hostname}{parts.path.rstrip('/')}"
    if spec.api == AUTO:
        dialect = recognised(address)
    else:
        dialect = find(spec.api)
        other = recognised(address)
        if dialect.whole_in(address) is None and other.whole_in(address) is not None:
            raise UsageError(
                f"--api: {spec.api} does not go with a --url that ends as that of {other.name} does; give --api {other.name}"
            )
    spec = replace(spec, api=dialect.name)
    found = dialect.whole_in(address)
    if spec.model is None and found is not None and "model" in found.groupdict():
        spec = replace(spec, model=unquote(found["model"]))
    speaker = spoken(wording(spec))
    if dialect.framing == "json":
        for flag, given in (("--turns", spec.turns), ("--cancel", spec.cancel)):
            if given is not None:
                raise UsageError(f"{flag}: the {dialect.name} API answers in one piece, without a text; leave it out")
    # What it cannot say is refused here, and not by the first request.
    images = tuple(image if image.startswith("http") else "data:image/png;base64," for image in spec.image)
    speaker.body(Ask(spec.model or "", "", 1, spec.ignore_eos, images=images))
    return spec


def endpoint(spec: Spec) -> Endpoint:
    """Where the requests of a resolved spec of one target go.

    `--url` may be a base (http://h:8000, https://h/v1) or the whole path.
    """
    parts = urlsplit(spec.url)
    tls = parts.scheme == "https"
    assert parts.hostname is not None
    base = parts.path.rstrip("/")
    dialect = find(spec.api)
    path = base if dialect.whole_in(f"{parts.hostname}{base}") is not None else dialect.path(base)
    if spec.model is not None:
        path = dialect.path_to(path, spec.model)
    query = parts.query
    if dialect.query and dialect.query.partition("=")[0] not in parse_qs(query, keep_blank_values=True):
        query = f"{query}&{dialect.query}" if query else dialect.query
    return Endpoint(
        host=parts.hostname,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        path=f"{path}?{query}" if query else path,
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


def head(spec: Spec, where: Endpoint, credentials: Credentials = NOBODY) -> bytes:
    """Request line and headers, less Content-Length and the blank line. UsageError if they cannot be sent."""
    default_port = 443 if where.tls else 80
    host = f"[{where.host}]" if ":" in where.host else where.host
    fields = header_fields(find(spec.api), credentials, spec.header)
    own = {name.lower() for name, _ in fields}
    first = [
        ("Host", host if where.port == default_port else f"{host}:{where.port}"),
        ("User-Agent", f"loadgen/{__version__}"),
    ]
    fields = [*(pair for pair in first if pair[0].lower() not in own), *fields]
    lines = [f"POST {where.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    # A line break in the key (a file read whole, a .env of Windows) would begin a header of its own.
    if not all(line.isascii() and line.isprintable() for line in lines):
        variables = ", ".join(find(spec.api).key_variables)
        raise UsageError(
            f"{variables}, --url: the key, a header or the URL holds characters that HTTP cannot send; "
            "allowed is printable ASCII"
        )
    return "\r\n".join(lines).encode("ascii")


def images(spec: Spec, randomness: random.Random | None = None) -> tuple[str, ...]:
    """The images of one prompt, as URLs."""
    randomness = randomness or random.Random(spec.seed)
    return tuple(url_of(image, randomness) for image in spec.image)


def pool(
    spec: Spec,
    model: str,
    calibration: Calibration = Calibration(),  # noqa: B008 - a value
    most_bytes: int = MAX_POOL_BYTES,
) -> PromptPool:
    """The requests, seeded: the same spec and seed give the same bytes. Without bodies where there is a script."""
    if recipes.has_script(spec):
        return PromptPool((), (b"",), 0, spec.seed)
    assert isinstance(spec.input_tokens, Distribution)
    assert isinstance(spec.output_tokens, Distribution)
    input_tokens, output_tokens = int(spec.input_tokens.a), int(spec.output_tokens.a)
    dialect = spoken(wording(spec))
    lexicon = Lexicon(load(spec.tokenizer) if spec.tokenizer is not None else None)
    randomness = random.Random(spec.seed)
    content = calibration.content(input_tokens)
    vocabulary = tuple(f"{word} ".encode() for word in lexicon.nonce_words)
    bits = (len(vocabulary) - 1).bit_length()
    nonce_words = lexicon.nonce_that_fits(content, -(-NONCE_BITS // max(bits, 1)))
    opening = Nonces(vocabulary, nonce_words, spec.seed).nonce(0).decode()
    system = lexicon.text(spec.prefix_tokens, randomness)
    bodies: list[tuple[bytes, bytes]] = []
    texts: list[str] = []
    shown: list[tuple[str, ...]] = []
    n_bytes = 0
    while len(bodies) < MAX_BODIES and n_bytes < most_bytes:
        text = lexicon.text(content, randomness, opening)
        shown.append(images(spec, randomness))
        ask = Ask(model, _MARK + text, output_tokens, spec.ignore_eos, system, images=shown[-1])
        before, after = orjson.dumps(dialect.body(ask)).split(_MARK.encode(), 1)
        bodies.append((before, after))
        texts.append(text)
        n_bytes += len(before) + len(after)
    talk = None
    if spec.turns is not None:
        recorded = range(0 if spec.history == "real" else MAX_ANSWERS)
        answers = tuple(lexicon.text(output_tokens, randomness) for _ in recorded)
        talk = Talk(
            model, system, output_tokens, spec.ignore_eos, tuple(texts), answers, tuple(shown) if spec.image else ()
        )
    return PromptPool(
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
    how = recipes.file_of(spec)
    assert how is not None
    if stage.warmup_requests:
        raise UsageError("--warmup-requests: the times of a trace are read while it is played; give --warmup TIME")
    plays = recipes.course(spec)
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
    pairs = zip(spec.stages, planned, strict=True)
    return [stage_entry(spec, number, stage, made) for number, (stage, made) in enumerate(pairs)]


def stage_entry(spec: Spec, number: int, stage: StageSpec, made: Schedule) -> dict[str, Any]:
    """One planned stage, as it stands in run.json."""
    # Where there are no tokens to count, what a request brings is counted.
    apis = {one.api for one in targets.each(spec)}
    only_embeds = AUTO not in apis and all(find(api).framing == "json" for api in apis)
    more = {"inputs_per_request": spec.inputs} if only_embeds else {}
    return {
        "stage": number,
        "name": stage_name(stage),
        "load": _load(spec, stage, made),
        "ramp_up_s": stage.ramp_up_s,
        "warmup_s": stage.warmup_s,
        "warmup_requests": stage.warmup_requests,
        "duration_s": None if made.duration_ns is None else made.duration_ns / NS_PER_S,
        "requests": stage.requests,
        "sessions": stage.sessions,
        "warms_up": stage.warms_up,
        "arrivals_planned": made.arrivals_planned,
        **more,
    }


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
    if recipes.has_sessions(spec, recipes.file_of(spec)):
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
    """The most units in flight at any time, in all workers; None where an open loop sets no limit, or without a stage."""
    limits = [
        stage.max_in_flight if stage.is_open_loop else made.most_in_flight
        for stage, made in zip(spec.stages, planned, strict=True)
    ]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def worker_stages(
    spec: Spec, planned: Sequence[Schedule], worker: int, workers: int, most_connections: int
) -> tuple[StagePlan, ...]:
    """One worker's slice of every stage; a worker can hold `most_connections`."""
    return tuple(
        worker_stage(number, stage, made, worker, workers, most_connections)
        for number, (stage, made) in enumerate(zip(spec.stages, planned, strict=True))
    )


def worker_stage(
    number: int, stage: StageSpec, made: Schedule, worker: int, workers: int, most_connections: int
) -> StagePlan:
    """One worker's slice of one stage."""
    return StagePlan(
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


def users(spec: Spec, traceparent: Traceparent | None = None) -> UsersPlan:
    """How users behave."""
    how = recipes.file_of(spec)
    return UsersPlan(
        seed=spec.seed,
        think=spec.think,
        turns=spec.turns,
        most_turns=recipes.turns_of(spec, how),
        scripted_sessions=how is not None and recipes.has_sessions(spec, how),
        real_history=spec.history == "real",
        cancel_share=spec.cancel.share if spec.cancel is not None else 0.0,
        cancel_after=spec.cancel.after if spec.cancel is not None else None,
        retries=spec.retries,
        traceparent=traceparent,
    )


def secrets(credentials: Sequence[Credentials], proxy: str | None) -> tuple[str, ...]:
    """What must not be written anywhere: the keys, what follows a scheme in a header's value, and the proxy's password as
    it is written and as it is meant."""
    values = [value for one in credentials for value in one.secrets]
    password = urlsplit(proxy).password if proxy else None
    words = [
        *values,
        *(value.split()[1] for value in values if len(value.split()) == 2),
        password,
        password and unquote(password),
    ]
    return tuple(sorted({word for word in words if word}, key=len, reverse=True))


def target_entries(spec: Spec) -> list[dict[str, Any]]:
    """The targets, as they stand in run.json; `endpoints` are places in `endpoint_urls`."""
    urls = endpoint_urls(spec)
    told = zip(targets.each(spec), targets.names(spec), targets.weights(spec), strict=True)
    return [
        {
            "target": number,
            "name": name,
            "weight": weight,
            "model": one.model,
            "api": one.api,
            "endpoints": [urls.index(url) for url in targets.urls(spec, number)],
        }
        for number, (one, name, weight) in enumerate(told)
    ]


def endpoint_urls(spec: Spec) -> list[str]:
    """All URLs of a run, each once."""
    return list(dict.fromkeys(url for number in range(len(spec.targets) or 1) for url in targets.urls(spec, number)))


def endpoints(spec: Spec) -> list[tuple[Endpoint, ...]]:
    """Where the requests of each target go, as of `endpoint`."""
    return [
        tuple(endpoint(replace(one, url=url)) for url in targets.urls(spec, number))
        for number, one in enumerate(targets.each(spec))
    ]


def ways(spec: Spec, credentials: Sequence[Credentials]) -> tuple[tuple[Endpoint, ...], tuple[Route, ...]]:
    """(what is connected to, how each target is asked at each of its URLs). UsageError where a header cannot be sent."""
    urls, origins = endpoint_urls(spec), list[Endpoint]()
    routes = []
    for number, (one, its_endpoints) in enumerate(zip(targets.each(spec), endpoints(spec), strict=True)):
        for url, where in zip(targets.urls(spec, number), its_endpoints, strict=True):
            origin = replace(where, path="")
            if origin not in origins:
                origins.append(origin)
            called = f"{targets.names(spec)[number]} at {url}" if spec.targets else ""
            head_bytes = head(one, where, credentials[number])
            routes.append(Route(number, urls.index(url), origins.index(origin), head_bytes, called))
    return tuple(origins), tuple(routes)


def worker_plans(
    spec: Spec,
    planned: Sequence[Schedule],
    *,
    credentials: Sequence[Credentials],
    transport: str,
    cores: list[int | None],
    run_id: str,
    host: dict[str, Any],
    capture_paths: list[str],
    board_fd: int,
    share: Share | None = None,
    scripts: Sequence[ScriptPlan] | None = None,
    calibration: Calibration = Calibration(),  # noqa: B008 - a value
) -> list[WorkerPlan]:
    """A plan a worker of this machine, without the stages; `cores`, `capture_paths` and `scripts` hold one entry for each.

    `credentials` are those of each target. All targets know their models. `share` says which workers of the run they are;
    None: all of them.
    """
    share = share or Share(0, len(cores), len(cores))
    workers = share.workers
    origins, routes = ways(spec, credentials)
    asked = tuple(
        Target(
            name=name,
            wording=wording(one),
            pool=pool(one, one.model or "", calibration, MAX_POOL_BYTES // len(spec.targets or "1")),
            routes=tuple(place for place, route in enumerate(routes) if route.target == number),
        )
        for number, (one, name) in enumerate(zip(targets.each(spec), targets.names(spec), strict=True))
    )
    traceparent = Traceparent(run_id.encode()) if spec.traceparent else None
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
            seat=seat,
            seats=share.count,
            core=core,
            transport=transport,
            spin=spec.spin,
            origins=origins,
            targets=asked,
            routes=routes,
            deal=dealt(spec),
            balance=spec.balance,
            limits=limits(spec),
            users=users(spec, traceparent),
            script=None if scripts is None else scripts[seat],
            tokenizer=spec.tokenizer,
            capture_path=path,
            metadata=metadata,
            secrets=secrets(credentials, spec.proxy),
            board_fd=board_fd,
        )
        for seat, (worker, core, path) in enumerate(zip(share, cores, capture_paths, strict=True))
    ]


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
