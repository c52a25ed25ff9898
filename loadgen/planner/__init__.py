"""Spec + workload -> plans: the targets, the bytes of the requests, and each worker's slice of every stage."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from loadgen import __version__, recipes
from loadgen.clock import in_ns
from loadgen.dealing import Deal, deal
from loadgen.dialects.credentials import Credentials
from loadgen.plan import Limits, ScriptPlan, Share, Target, Traceparent, UsersPlan, WorkerPlan
from loadgen.planner.addressing import endpoint, endpoint_urls, endpoints, head, resolved, ways
from loadgen.planner.bodies import MAX_POOL_BYTES, images, pool, speaking, wording, wordings
from loadgen.planner.entries import stage_entry, stages, target_entries
from loadgen.planner.slices import most_in_flight, schedules, share, worker_stage, worker_stages
from loadgen.schedule.stage import Schedule
from loadgen.schema import SCHEMA_VERSION
from loadgen.spec import Spec, targets
from loadgen.workload.script import Calibration

__all__ = [
    "dealt", "endpoint", "endpoint_urls", "endpoints", "head", "images", "limits", "most_in_flight", "pool", "resolved",
    "schedules", "secrets", "share", "speaking", "stage_entry", "stages", "target_entries", "users", "ways", "wording",
    "wordings", "worker_plans", "worker_stage", "worker_stages",
]  # fmt: skip


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


def dealt(spec: Spec) -> Deal:
    """How units are dealt to the targets."""
    return deal(spec.seed, targets.weights(spec))


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


def limits(spec: Spec) -> Limits:
    """The limits of a request in ns."""
    return Limits(
        connect_ns=in_ns(spec.connect_timeout_s),
        first_byte_ns=in_ns(spec.first_byte_timeout_s),
        idle_ns=in_ns(spec.idle_timeout_s),
        total_ns=in_ns(spec.timeout_s),
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
