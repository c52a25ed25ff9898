"""A run of ours as a trace: the arrivals, lengths, sessions and targets of its capture."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.workload.formats.row import Row, Turn

_COLUMNS = (
    "stage",
    "session_id",
    "turn",
    "intended_ns",
    "sent_ns",
    "event_ns",
    "prompt_tokens",
    "output_tokens",
    "wanted_input_tokens",
    "wanted_output_tokens",
    "target",
)


def capture_rows(run_dir: str) -> Iterator[Row]:
    """The requests of a run in the order in which they were due (without a schedule: sent). UsageError if there are none.

    A capture is in the order of the ends: 56 bytes a request are held to put it into that of the beginnings.
    """
    import numpy as np
    import pyarrow as pa

    paths = sorted(Path(run_dir, "capture").rglob("worker-*.arrow"))
    if not paths:
        raise UsageError(f"{run_dir} is no run: there is no capture in it")
    parts: list[Any] = []
    for path in paths:
        try:
            with pa.OSFile(str(path)) as source:
                schema = pa.ipc.open_stream(source).schema
                source.seek(0)
                fields = [schema.names.index(name) for name in _COLUMNS if name in schema.names]
                reader = pa.ipc.open_stream(
                    source, options=pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
                )
                while True:
                    parts.append(_numbers(reader.read_next_batch()))
        except StopIteration:
            continue
        except (pa.ArrowInvalid, OSError):  # a worker that was killed: up to its last whole batch
            continue
    if not parts or not (table := np.concatenate(parts)).size:
        raise UsageError(f"{run_dir} holds no requests")
    table = table[np.argsort(table[:, 0], kind="stable")]
    if (table[:, 1] < 0).all():
        raise UsageError(
            f"{run_dir} does not tell the lengths of its prompts: its endpoint sent no usage; nothing to replay"
        )
    names = _target_names(run_dir)
    usual = int(np.median(table[table[:, 1] >= 0, 1]))
    for number, (at_ns, prompt, output, session, target) in enumerate(table.tolist(), 1):
        turn = Turn(input_tokens=max(prompt if prompt >= 0 else usual, 1), output_tokens=max(output, 1))
        name = names[target] if 0 <= target < len(names) else None
        yield Row(number, (turn,), at_ns=at_ns, session=None if session < 0 else str(session), target=name)


def _target_names(run_dir: str) -> list[str]:
    """() where there was but one, or nobody knows."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(Path(run_dir, "run.json").read_bytes())["targets"]
        return [str(target["name"]) for target in told] if len(told) > 1 else []
    return []


def _numbers(batch: Any) -> Any:
    """(due or sent, prompt tokens, output tokens, session, target) of a batch; -1 where nobody told."""
    import numpy as np

    def column(name: str) -> Any:
        if name not in batch.schema.names:
            return np.full(batch.num_rows, -1, np.int64)
        return batch.column(name).cast("int64").fill_null(-1).to_numpy(zero_copy_only=False)

    def told(*names: str) -> Any:
        values = column(names[0])
        for name in names[1:]:
            values = np.where(values < 0, column(name), values)
        return values

    events = batch.column("event_ns").value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    output = told("output_tokens", "wanted_output_tokens")
    return np.column_stack(
        [
            told("intended_ns", "sent_ns"),
            told("prompt_tokens", "wanted_input_tokens"),
            np.where(output < 0, events, output),
            column("session_id"),
            column("target"),
        ]
    ).astype(np.int64)
