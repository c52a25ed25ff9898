"""A run of several loads with failures and objectives, as a page shows it; and one in which every word is hostile."""

from pathlib import Path
from typing import Any

from scraped import write_scrapes
from synthetic import MS, START_NS, S, mark, row, stage_plan, write_run

HOSTILE = (
    '</script><script>window.hacked = 1</script><img src="http://127.0.0.1:9/x" onerror="window.hacked = 2">'
    "&'{{ 7 * 7 }}"
)

LOADS = (1, 4, 16)


def requests_of(load: int, stage: int, seconds: float, start_ns: int, **facts: Any) -> list[dict[str, Any]]:
    """A closed loop whose first tokens come later, and gaps get longer, the more requests are in flight."""
    rows = []
    for slot in range(load):
        t_ns, number = start_ns + slot * MS, 0
        while t_ns < start_ns + round(seconds * S):
            first_ns = t_ns + (20 + 4 * load + (slot * 7 + number * 3) % 11) * MS
            gap_ns = (4 * MS + load * MS // 8) + (slot % 3) * 100_000
            events = [first_ns + index * gap_ns + (index > 12) * 30 * MS for index in range(20)]
            number += 1
            failed = load > 4 and (slot + number) % 13 == 0
            rows.append(
                row(
                    t_ns,
                    events[:7] if failed else events,
                    request_id=(stage << 40) | len(rows),
                    stage=stage,
                    ended_ns=events[6] if failed else events[-1],
                    error="truncated" if failed else None,
                    prompt_tokens=512,
                    output_tokens=20,
                    response_id=f"chatcmpl-{stage}-{len(rows)}",
                )
                | facts
            )
            t_ns = (events[6] if failed else events[-1]) + 10_000
    return sorted(rows, key=lambda one: one["ended_ns"])


def sweep(folder: Path, seconds: float = 4.0, loads: tuple[int, ...] = LOADS, **facts: Any) -> Path:
    """Its run directory; `facts` override keys of the spec."""
    plans, marks, rows = [], [], []
    for stage, load in enumerate(loads):
        start_ns = START_NS + round(stage * (seconds + 1) * S)
        plans.append(
            stage_plan(
                stage, name=f"concurrency {load}", load={"mode": "concurrency", "value": load}, duration_s=seconds
            )
        )
        marks.append(mark(stage, start_ns, seconds))
        rows += requests_of(load, stage, seconds, start_ns)
    spec = {
        "model": "llama",
        "url": "http://endpoint:8000/v1",
        "slo": {"ttft": {"limit_ms": 60.0, "percentile": 99.0}, "tpot": {"limit_ms": 9.0, "percentile": None}},
    } | facts
    return write_run(folder, rows, plans, marks, spec=spec)


def scraped_sweep(folder: Path, seconds: float = 4.0, **facts: Any) -> Path:
    """The same with two pages of metrics: a server's, and its GPU's, of which the server tells the memory in use too."""
    run_dir = sweep(folder, seconds, **facts)
    pages: list[tuple[int, int, Any]] = []
    for half in range(-2, round(2 * len(LOADS) * (seconds + 1))):
        stage, in_stage_s = divmod(half / 2, seconds + 1)
        load = float(LOADS[int(stage)] if stage >= 0 and in_stage_s <= seconds else 0)
        server = [
            ("vllm:num_requests_running", (), min(load, 8.0)),
            ("vllm:num_requests_waiting", (), max(load - 8.0, 0.0)),
            ("vllm:kv_cache_usage_perc", (), load / 20),
            ("vllm:num_preemptions_total", (), 2.0 * max(half - 4 * (seconds + 1), 0)),
            ("gpu_usage_percentage", (), 30.0 + load),
        ]
        gpu = [("DCGM_FI_DEV_GPU_UTIL", (("gpu", name),), 50.0 + load) for name in "01"]
        at_ns = START_NS + half * S // 2
        pages += [(0, at_ns, server), (1, at_ns + MS, gpu)]
    write_scrapes(run_dir, pages)
    return run_dir


def hostile(folder: Path) -> Path:
    """A run in which the model, the address, the load, an error and the server's ids are HOSTILE."""
    plans = [stage_plan(0, name=HOSTILE, duration_s=4.0), stage_plan(1, name=f"2 {HOSTILE}", duration_s=4.0)]
    plans[1]["load"] = {"mode": "concurrency", "value": 4, "profile": HOSTILE}
    marks = [mark(0, START_NS, 4.0), mark(1, START_NS + 5 * S, 4.0)]
    rows = requests_of(4, 0, 4.0, START_NS, response_id=HOSTILE)
    rows += requests_of(4, 1, 4.0, START_NS + 5 * S, response_id=HOSTILE)
    for place in range(0, len(rows), 9):
        rows[place]["error"] = HOSTILE
    spec = {"model": HOSTILE, "url": f"http://{HOSTILE}", "slo": None, HOSTILE: HOSTILE}
    run_dir = write_run(folder, rows, plans, marks, spec=spec, ended={"reason": "failed", "words": HOSTILE})
    write_scrapes(run_dir, [(0, START_NS + second * S, HOSTILE) for second in range(9)])
    return run_dir
