"""Plans and requests for the tests beside this."""

import json

from loadgen import planner
from loadgen.dialects.credentials import NOBODY, Credentials

KEY = "sk-0123456789-secret"


def plans_of(asked, workers: int, credentials: Credentials = NOBODY):
    return planner.worker_plans(
        asked,
        planner.schedules(asked),
        credentials=[credentials],
        transport="kernel",
        cores=[None] * workers,
        run_id="r",
        host={"name": "h", "kernel": "k", "clock_source": "tsc"},
        capture_paths=[f"/tmp/worker-{worker:02}.arrow" for worker in range(workers)],
        board_fd=0,
    )


def parsed(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """A request, taken apart by splitting: (request line, fields by lower-case name, body)."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a field twice"
    return line, {name.lower(): value for name, value in pairs}, body


def prompt_of(body: bytes) -> str:
    wants = json.loads(body)
    return wants["messages"][0]["content"] if "messages" in wants else wants["prompt"]
