"""traces.otlp.jsonl: sampled requests as OpenTelemetry spans, in OTLP's JSON encoding, a batch a line.

Names are those of the GenAI semantic conventions (v1.41); what they have no name for begins with `loadgen.`. A span lasts
from the send to the last byte, and has events at its first and last token. Its ids follow from the run and the request
(loadgen.schema.trace_number): they are those that --traceparent sent, so that a server's spans are its children.

The encoding: proto3's JSON with ids in hex, 64-bit numbers as text (opentelemetry.io/docs/specs/otlp, "JSON Protobuf
Encoding"); the file: one ExportTraceServiceRequest a line, as the Collector's otlpjsonfile receiver reads it.
"""

import json
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from analysis.exports.files import whole
from analysis.exports.perfetto import Request, sampled
from analysis.opened import Opened, opened
from analysis.rows import ABSENT, CANCELLED
from analysis.targets import targets_of, urls_of
from loadgen.schema import trace_number

BATCH: Final = 500
"""Spans a line: some 500 KB, well below what collectors take at once."""

CLIENT: Final = 3
"""SPAN_KIND_CLIENT."""

ERROR: Final = 2
"""STATUS_CODE_ERROR."""

TEXT_APIS: Final = frozenset(
    {
        *("completions", "azure-completions", "databricks-completions", "ollama-generate"),
        *("sglang", "tgi", "triton", "llamacpp"),
    }
)
"""APIs that complete a text; the others chat, but for those in OPERATIONS."""

OPERATIONS: Final = {
    **dict.fromkeys(TEXT_APIS, "text_completion"),
    **dict.fromkeys(("embeddings", "databricks-embeddings"), "embeddings"),
    **dict.fromkeys(("gemini", "vertex"), "generate_content"),
}

PROVIDERS: Final = {
    **dict.fromkeys(("chat", "completions", "responses", "embeddings"), "openai"),
    **dict.fromkeys(("azure", "azure-completions", "azure-v1"), "azure.ai.openai"),
    **{"messages": "anthropic", "gemini": "gcp.gemini", "vertex": "gcp.vertex_ai"},
}
"""By the API's name, which says how a server is spoken to, not who runs it; the first word of any other API's name."""


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    path = out_dir / "traces.otlp.jsonl"
    with whole(path) as part, part.open("w", encoding="utf-8") as out:
        for batch in batches(run_dir, sample):
            out.write(json.dumps(batch, ensure_ascii=False, separators=(",", ":")) + "\n")
    return [path]


def batches(run_dir: Path, sample: int) -> Iterator[dict[str, Any]]:
    """The body of an ExportTraceServiceRequest for each BATCH of spans."""
    run = opened(run_dir)
    requests = sampled(run, sample)
    resource = {"attributes": _attributes(_resource(run))}
    scope = {"name": "loadgen", "version": str(run.run.facts["loadgen"])}
    for first in range(0, len(requests), BATCH):
        spans = [_span(run, one) for one in requests[first : first + BATCH]]
        yield {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}


def _resource(run: Opened) -> dict[str, Any]:
    facts = run.run.facts
    return {
        "service.name": "loadgen",
        "service.version": facts["loadgen"],
        "service.instance.id": facts["run_id"],
        "host.name": (facts["host"] or {}).get("name"),
    }


def _span(run: Opened, one: Request) -> dict[str, Any]:
    spec = run.run.facts["spec"] or {}
    targets, urls = targets_of(spec), urls_of(spec)
    api, model = str(spec.get("api") or ""), spec.get("model")
    if one["target"] < len(targets):
        api, model = targets[one["target"]].api, targets[one["target"]].model
    url = urls[one["endpoint"]] if 0 <= one["endpoint"] < len(urls) else urls[0]
    operation = OPERATIONS.get(api, "chat")
    run_id = run.run.facts["run_id"]
    number = f"{trace_number(one['request_id']):016x}"
    where = urlsplit(url)
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDERS.get(api) or api.partition("-")[0] or "openai",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": spec.get("output_tokens"),
        "gen_ai.response.id": one["response_id"],
        "gen_ai.response.finish_reasons": [one["finish_reason"]] if one["finish_reason"] else None,
        "gen_ai.usage.input_tokens": _known(one["prompt_tokens"]),
        "gen_ai.usage.output_tokens": one["output_tokens"] if one["events"] else None,
        "gen_ai.conversation.id": None if one["session_id"] is None else f"{run_id}-{one['session_id']}",
        "server.address": where.hostname,
        "server.port": where.port or {"http": 80, "https": 443}.get(where.scheme),
        "http.response.status_code": one["status"],
        "error.type": one["error"],
        "loadgen.request_id": one["request_id"],
        "loadgen.stage": one["stage"],
        "loadgen.stage.name": run.plans[one["stage"]].get("name"),
        "loadgen.worker": one["worker"],
        "loadgen.events": one["events"],
        "loadgen.connect_ms": one["connect_ns"] / 1e6 if one["connect_ns"] != ABSENT else None,
        "loadgen.lateness_ms": (one["sent_ns"] - one["due_ns"]) / 1e6 if one["due_ns"] != one["sent_ns"] else None,
    }
    events = [("gen_ai.first_token", one["first_ns"]), ("gen_ai.last_token", one["last_ns"])]
    span: dict[str, Any] = {
        "traceId": _run_number(run_id) + number,
        "spanId": number,
        "flags": 0x101,  # sampled; and that the parent is not remote is known (bit 8), for there is none
        "name": f"{operation} {model}" if model else operation,
        "kind": CLIENT,
        "startTimeUnixNano": _wall(run, one["sent_ns"]),
        "endTimeUnixNano": _wall(run, max(one["ended_ns"], one["sent_ns"])),
        "attributes": _attributes(attributes),
        "events": [
            {"timeUnixNano": _wall(run, at_ns), "name": name} for name, at_ns in events if _known(at_ns) is not None
        ],
    }
    if one["error"] is not None and one["error"] != CANCELLED:
        span["status"] = {"code": ERROR, "message": one["error"]}
    return span


def _run_number(run_id: str) -> str:
    """16 hex digits: the run's id as it is, or where another program made it, a digest."""
    return run_id if re.fullmatch("[0-9a-f]{16}", run_id) else blake2b(run_id.encode(), digest_size=8).hexdigest()


def _known(value: int) -> int | None:
    return None if value == ABSENT else value


def _wall(run: Opened, at_ns: int) -> str:
    return str(at_ns + run.realtime_offset_ns)


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {"stringValue": str(value)}
