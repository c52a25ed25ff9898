"""This machine measured against the built-in simulator, whose true times are known: the floor of every result here.

One run of some twenty seconds over loopback, the server on one core and the only worker on another: first a schedule, for
the lateness of the sends, then ever more streams at a step of 20 ms. What is carried is the highest level at which events
do not share their reads, the core is not full, and the simulator itself keeps up.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from analysis.truth import joined
from loadgen import host, local_run
from loadgen.doctor import BAD, OK, WARN, Finding
from loadgen.doctor.machine import physical_cores, ranges
from loadgen.errors import RunError
from loadgen.simulator.process import Served, serve

STEP_MS: Final = 20
OUTPUT_TOKENS: Final = 50
RATE_PER_S: Final = 100
STREAMS: Final = (256, 512, 1024, 2048)
STREAMS_QUICKLY: Final = (256, 1024)

# As in the verdict of a run.
MOST_COALESCED_SHARE: Final = 0.01
MOST_CPU_SHARE: Final = 0.85

IDLE_CPU_SHARE: Final = 0.6
"""Below, a worker that reads late was not kept by its own work."""

LEAST_SERVED_SHARE: Final = 0.9
"""Of the tokens that so many streams should get: below, it is the simulator that does not keep up."""

GOOD_STAMP_US: Final = 50.0
MOST_STAMP_US: Final = 1000.0
GOOD_LATENESS_US: Final = 1000.0
MOST_LATENESS_US: Final = 10_000.0

PATIENCE_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Who works where; the same core twice where there is only one."""

    server: int
    client: int

    @property
    def are_apart(self) -> bool:
        """Whether each has its own."""
        return self.server != self.client


def chosen_cores(usable: Sequence[int], root: Path = Path("/")) -> Cores:
    """The first core for the server and the last one for the client, on different physical ones if there are two."""
    apart = physical_cores(list(usable), root)
    some = apart if len(apart) > 1 else list(usable)
    return Cores(some[0], some[-1])


def measured(cores: Cores, *, quick: bool) -> dict[str, Any]:
    """The floor of this machine, as floor.keep keeps it. RunError where the run fails."""
    streams = STREAMS_QUICKLY if quick else STREAMS
    options = ("--step", f"{STEP_MS}ms", "--max-running", "100000")
    with serve(*options, cpu=cores.server) as served, _loaded(served, cores.client, streams, quick) as run_dir:
        served.stop()
        summary = json.loads((run_dir / "summary.json").read_bytes())
        return floor_of(summary, _captured(run_dir), served.truth(), streams) | {
            "quick": quick,
            "cores_apart": cores.are_apart,
            "workers": len(recommended_cores(host.usable_cores(), host.cpu_quota())),
        }


def recommended_cores(usable: list[int], quota: float | None, root: Path = Path("/")) -> list[int]:
    """The cores that workers should have: as a run chooses them, but one CPU of each physical core."""
    return local_run.choose_cores(None, None, physical_cores(usable, root), None, quota)


@contextmanager
def _loaded(served: Served, cpu: int, streams: Sequence[int], quick: bool) -> Iterator[Path]:
    """The directory of `loadgen run` with one worker on this core."""
    with tempfile.TemporaryDirectory(prefix="loadgen-doctor-") as folder:
        asked, run_dir = Path(folder, "calibration.toml"), Path(folder, "run")
        asked.write_text(_spec(streams, 1 if quick else 2), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "run",
            "--spec",
            str(asked),
            "--url",
            served.url,
            "--model",
            served.model,
        ]
        command += ["--cpus", str(cpu), "--workers", "1", "--out", str(run_dir), "--no-check", "--no-html"]
        try:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=True
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"the calibration took longer than {PATIENCE_S:g} s: this machine is too busy") from None
        except subprocess.CalledProcessError as error:
            words = (error.stderr or error.stdout).strip().splitlines()
            raise RunError(f"the calibration failed: {words[-1] if words else f'status {error.returncode}'}") from None
        yield run_dir


def _spec(streams: Sequence[int], seconds: int) -> str:
    stages = [
        f'[[stage]]\nname = "schedule"\nrate = {RATE_PER_S}\narrivals = "poisson"\nduration = "{2 * seconds}s"\n'
        'warmup = "500ms"\ndrain = "2s"\n'
    ]
    # A warm-up longer than a response, so that the window begins with streams that have come apart as they do.
    stages += [
        f'[[stage]]\nname = "{count}"\nconcurrency = {count}\nduration = "{seconds}s"\nwarmup = "1s"\ndrain = "0s"\n'
        for count in streams
    ]
    return f'output_tokens = {OUTPUT_TOKENS}\ninput_tokens = 16\nseed = 1\nabort_on = "never"\n' + "\n".join(stages)


def _captured(run_dir: Path) -> pa.Table:
    with pa.OSFile(str(run_dir / "capture" / "worker-00.arrow")) as source:
        return pa.ipc.open_stream(source).read_all()


def floor_of(summary: dict[str, Any], captured: pa.Table, truth: pa.Table, streams: Sequence[int]) -> dict[str, Any]:
    """What the run comes to; stage 0 is the schedule, stage n has streams[n - 1]."""
    steps = [_step(summary["stages"][i], captured, truth, i, count) for i, count in enumerate(streams, start=1)]
    good = steps[: next((i for i, step in enumerate(steps) if step["limit"]), len(steps))]
    first, best = steps[0], good[-1] if good else None
    late = summary["stages"][0]["client"]["lateness_us"] or {}
    return {
        "at": summary["started_at"],
        "stamp_error_us": first["stamp_error_us"],
        "wrong_tokens": sum(step["wrong_tokens"] for step in steps),
        "lateness_us": {name: late.get(name) for name in ("p50", "p99")} | {"rate_per_s": RATE_PER_S},
        "tokens_per_s_a_core": None if best is None else best["tokens_per_s"],
        "limit": next((step["limit"] for step in steps if step["limit"]), None),
        "steps": steps,
    }


def _step(stage: dict[str, Any], captured: pa.Table, truth: pa.Table, number: int, streams: int) -> dict[str, Any]:
    """One level of streams. `limit` is None where it was carried, else who or what did not: events, cpu, simulator."""
    rows = captured.filter(pc.and_(pc.equal(captured["stage"], number), pc.is_null(captured["error"])))
    told = joined(rows, truth)
    client, tokens_per_s = stage["client"], stage["output_tokens_per_s"] or 0.0
    cpu_share = max((share for share in client["cpu_share"] if share is not None), default=None)
    coalesced = client["coalesced_share"]
    limit = None
    if coalesced is None or coalesced > MOST_COALESCED_SHARE:
        limit = "events"
    elif cpu_share is not None and cpu_share > MOST_CPU_SHARE:
        limit = "cpu"
    elif tokens_per_s < LEAST_SERVED_SHARE * streams * 1000 / STEP_MS:
        limit = "simulator"
    return {
        "streams": streams,
        "tokens_per_s": round(tokens_per_s),
        "stamp_error_us": told["stamp_error_us"]
        and {name: told["stamp_error_us"][name] for name in ("p50", "p99", "max")},
        "wrong_tokens": told["lost_tokens"] + told["invented_tokens"],
        "coalesced_share": coalesced,
        "cpu_share": cpu_share,
        "limit": limit,
    }


LIMITS: Final = {
    "events": "events shared their reads",
    "cpu": f"the worker's core was more than {MOST_CPU_SHARE:.0%} busy",
    "simulator": "the simulator did not keep up",
}


def findings(floor: dict[str, Any], usable: list[int]) -> list[Finding]:
    """The floor in words, and what to do where it is high."""
    return [*_precision(floor), _lateness(floor), _capacity(floor), _workers(floor, usable)]


def _precision(floor: dict[str, Any]) -> list[Finding]:
    found = []
    if floor["wrong_tokens"]:
        words = f"{floor['wrong_tokens']:,} tokens were lost or invented between server and capture"
        found.append(Finding("accounts", BAD, floor["wrong_tokens"], words, "do not trust this machine, and tell us"))
    error_us = floor["stamp_error_us"]
    if error_us is None:
        words = "not one response came back whole"
        return [*found, Finding("stamp error", BAD, None, words, "end what else runs here, and try again")]
    words = (
        f"{error_us['p50']:,.1f} us (p50), {error_us['p99']:,.1f} us (p99) at {floor['steps'][0]['streams']} streams"
    )
    level = OK if error_us["p99"] <= GOOD_STAMP_US else WARN if error_us["p99"] <= MOST_STAMP_US else BAD
    if not floor["cores_apart"]:
        words += ", server and client on one core"
    todo = (
        "" if level == OK else "see the findings on CPU pressure, steal and governor; the server's half is in it, too"
    )
    return [*found, Finding("stamp error", level, error_us["p99"], words, todo)]


def _lateness(floor: dict[str, Any]) -> Finding:
    late_us = floor["lateness_us"]
    if late_us["p99"] is None:
        return Finding(
            "send lateness", BAD, None, "nothing was sent on schedule", "end what else runs here, and try again"
        )
    words = (
        f"{late_us['p50']:,.0f} us (p50), {late_us['p99']:,.0f} us (p99) at {late_us['rate_per_s']} requests a second"
    )
    level = OK if late_us["p99"] <= GOOD_LATENESS_US else WARN if late_us["p99"] <= MOST_LATENESS_US else BAD
    todo = "" if level == OK else "cores that nothing else uses (--cpus), and --spin where there are some"
    return Finding("send lateness", level, late_us["p99"], words, todo)


def _capacity(floor: dict[str, Any]) -> Finding:
    tokens_per_s, limit = floor["tokens_per_s_a_core"], floor["limit"]
    if tokens_per_s is None:
        words = f"below {floor['steps'][0]['tokens_per_s']:,}: {LIMITS[limit]}"
        return Finding("tokens/s a core", BAD, None, words, "more workers, or a machine that nothing else uses")
    words = f"{tokens_per_s:,}"
    if limit is None:
        return Finding("tokens/s a core", OK, tokens_per_s, f"at least {words}: more was not tried")
    failed = next(step for step in floor["steps"] if step["limit"])
    busy = failed["cpu_share"]
    if limit == "events" and busy is not None and busy < IDLE_CPU_SHARE:
        words += f"; at {failed['streams']} streams {LIMITS[limit]}, with the worker's core {busy:.0%} busy"
        todo = "something held the worker up: see CPU pressure and steal, and measure again in a quiet moment"
        return Finding("tokens/s a core", WARN, tokens_per_s, words, todo)
    return Finding("tokens/s a core", OK, tokens_per_s, f"{words}; at {failed['streams']} streams {LIMITS[limit]}")


def _workers(floor: dict[str, Any], usable: list[int]) -> Finding:
    count = floor["workers"]
    words = f"{count} on this machine of {len(usable)} CPUs ({ranges(usable)}), as --workers auto takes them"
    if floor["tokens_per_s_a_core"]:
        words += f": about {count * floor['tokens_per_s_a_core']:,} tokens/s"
    return Finding("workers", OK, count, words)
