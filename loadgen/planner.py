"""Spec + workload -> plans: the target, the bytes of the requests, and each worker's slice of every stage."""

import random
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from loadgen import __version__
from loadgen.clock import NS_PER_S
from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import Ask
from loadgen.errors import UsageError
from loadgen.plan import Limits, PromptPool, StagePlan, Target, WorkerPlan
from loadgen.schema import SCHEMA_VERSION
from loadgen.spec import Spec
from loadgen.workload import prompts

# Enough bodies that no two streams in flight have to share one, few enough to be made and held at once.
MAX_BODIES: Final = 256
MAX_POOL_BYTES: Final = 32 * 1024 * 1024

NONCE_WORDS: Final = 7
"""64^7 ids: 2^32 requests in each of 1,024 stages."""

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


def pool(spec: Spec, model: str, head_bytes: bytes) -> PromptPool:
    """The requests, seeded: the same spec and seed give the same bytes."""
    randomness = random.Random(spec.seed)
    nonce_words = min(NONCE_WORDS, spec.input_tokens)
    bodies: list[tuple[bytes, bytes]] = []
    n_bytes = 0
    while len(bodies) < MAX_BODIES and n_bytes < MAX_POOL_BYTES:
        text = _MARK + prompts.synthetic(spec.input_tokens - nonce_words, randomness)
        ask = Ask(model, text, spec.output_tokens, spec.ignore_eos)
        before, after = orjson.dumps(DIALECTS[spec.api].body(ask)).split(_MARK.encode(), 1)
        bodies.append((before, after))
        n_bytes += len(before) + len(after)
    return PromptPool(
        head=head_bytes,
        bodies=tuple(bodies),
        vocabulary=tuple(f"{word} ".encode() for word in prompts.NONCE_WORDS),
        nonce_words=nonce_words,
        seed=spec.seed,
    )


def stages(spec: Spec) -> list[dict[str, Any]]:
    """The planned stages, as they stand in run.json and in every capture."""
    return [
        {
            "stage": number,
            "name": f"concurrency {level}",
            "load": {"mode": "concurrency", "value": level},
            "warmup_s": spec.warmup_s,
            "duration_s": spec.duration_s,
            "requests": spec.requests,
        }
        for number, level in enumerate(spec.concurrency)
    ]


def share(total: int, worker: int, workers: int) -> int:
    """A worker's part of a whole number; the parts add up to it exactly, and the first workers get the larger ones."""
    return total // workers + (worker < total % workers)


def worker_stages(spec: Spec, worker: int, workers: int) -> tuple[StagePlan, ...]:
    """One worker's slice of every stage."""
    plans = []
    for number, level in enumerate(spec.concurrency):
        concurrency = share(level, worker, workers)
        requests = spec.requests
        if requests is not None:
            # By slot, not by worker: a worker with more slots is through with more of them in the same time.
            requests = requests // level * concurrency + share(requests % level, worker, workers)
        plans.append(
            StagePlan(
                stage=number,
                concurrency=concurrency,
                all_slots=level,
                requests=requests,
                warmup_ns=_ns(spec.warmup_s),
                duration_ns=None if spec.duration_s is None else _ns(spec.duration_s),
                drain_ns=_ns(spec.drain_s),
            )
        )
    return tuple(plans)


def worker_plans(
    spec: Spec,
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
) -> list[WorkerPlan]:
    """A plan a worker; `cores` and `capture_paths` hold one entry for each."""
    workers = len(cores)
    requests = pool(spec, model, head(where, key))
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
        "stages": stages(spec),
    }
    return [
        WorkerPlan(
            worker=worker,
            workers=workers,
            core=core,
            transport=transport,
            dialect=spec.api,
            target=where,
            limits=limits(spec),
            stages=worker_stages(spec, worker, workers),
            pool=requests,
            capture_path=path,
            metadata=metadata,
            secrets=(key,) if key else (),
            board_fd=board_fd,
        )
        for worker, (core, path) in enumerate(zip(cores, capture_paths, strict=True))
    ]


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
