import base64
import json

import pytest
from canned import canned, response
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from analysis.exports import otlp
from loadgen.cli.export import send, traces_url
from loadgen.errors import EndpointError, UsageError
from loadgen.schema import trace_number


def exported(run_dir, folder, sample):
    (path,) = otlp.write(run_dir, folder, sample)
    return path


def by_protobuf(line):
    """A line as the reference reads it; ids are hex in OTLP and base64 in protobuf's JSON."""
    told = json.loads(line)
    for spans in (scope["spans"] for one in told["resourceSpans"] for scope in one["scopeSpans"]):
        for span in spans:
            for name in ("traceId", "spanId"):
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return json_format.ParseDict(told, ExportTraceServiceRequest())


@pytest.fixture(scope="module")
def requests(run_dir, tmp_path_factory):
    path = exported(run_dir, tmp_path_factory.mktemp("otlp"), 10_000)
    return [by_protobuf(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def spans(requests):
    return {
        facts(span)["loadgen.request_id"]: span
        for request in requests
        for span in request.resource_spans[0].scope_spans[0].spans
    }


def facts(span):
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


def test_every_request_that_was_sent_is_a_span(spans, everything):
    sent = {r["request_id"]: r for r in everything if r.get("error") != "dropped"}
    assert spans.keys() == sent.keys()
    for number, row in sent.items():
        span, told = spans[number], facts(spans[number])
        assert (span.kind, span.name) == (Span.SPAN_KIND_CLIENT, "chat m")
        assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.provider.name"] == "openai"
        assert told["gen_ai.request.model"] == "m"
        failed = row.get("error") is not None
        assert told.get("error.type") == row.get("error")
        assert (span.status.code == Status.STATUS_CODE_ERROR) == (failed and row["error"] != "cancelled")
        events = [(event.name, event.time_unix_nano - span.start_time_unix_nano) for event in span.events]
        if row["event_ns"]:
            first, last = row["event_ns"][0] - row["sent_ns"], row["event_ns"][-1] - row["sent_ns"]
            assert events == [("gen_ai.first_token", first), ("gen_ai.last_token", last)]
        else:
            assert events == []
        if number < 300:
            assert told["gen_ai.usage.output_tokens"] == row["output_tokens"]
            assert told["gen_ai.usage.input_tokens"] == row["prompt_tokens"]
            assert told["gen_ai.response.id"] == f"id-{number}"
            assert told["gen_ai.response.finish_reasons"] == ["stop"]


def test_a_trace_id_is_of_the_run_and_the_request(spans):
    for number, span in spans.items():
        assert span.span_id.hex() == f"{trace_number(number):016x}"
        assert span.trace_id[8:] == span.span_id
    assert len({span.trace_id[:8] for span in spans.values()}) == 1


def test_spans_come_in_batches_with_their_resource(requests):
    sizes = [len(request.resource_spans[0].scope_spans[0].spans) for request in requests]
    assert max(sizes) <= otlp.BATCH
    told = facts(requests[0].resource_spans[0].resource)
    assert told["service.name"] == "loadgen"


def test_a_sample_is_of_the_size_that_was_asked_for(run_dir, tmp_path):
    (line,) = exported(run_dir, tmp_path, 5).read_text().splitlines()
    assert len(by_protobuf(line).resource_spans[0].scope_spans[0].spans) == 5


def test_trace_numbers_are_different_never_zero_and_spread():
    ids = [(stage << 32) + number for stage in range(4) for number in range(5_000)]
    numbers = [trace_number(one) for one in ids]
    assert len(set(numbers)) == len(ids)
    assert all(0 < one < 1 << 64 for one in numbers)
    below_half = sum((one & (1 << 56) - 1) < 1 << 55 for one in numbers)
    assert 0.47 < below_half / len(ids) < 0.53, "a sampler that goes by the last 56 bits takes its share"


def test_a_collector_gets_the_batches_with_the_headers_of_the_environment(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=se%20cret,other=1")
    path = exported(run_dir, tmp_path, 10_000)
    with canned(response(b"{}", "application/json")) as collector:
        url = traces_url(collector.url.removesuffix("/v1"))
        assert send(path, url) == sum(len(one["resourceSpans"][0]["scopeSpans"][0]["spans"]) for one in lines(path))
    bodies = [request.partition(b"\r\n\r\n")[2] for request in collector.requests]
    assert [json.loads(body) for body in bodies] == lines(path)
    head = collector.requests[0].partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post /v1/traces http/1.1")
    assert b"x-api-key: se cret" in head
    assert b"content-type: application/json" in head


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_a_collector_rejects_is_told(run_dir, tmp_path, capsys):
    path = exported(run_dir, tmp_path, 10)
    told = b'{"partialSuccess":{"rejectedSpans":"4","errorMessage":"too \\u001b[2J old"}}'
    with canned(response(told, "application/json")) as collector:
        assert send(path, traces_url(collector.url)) == 6
    assert "4 spans were rejected: too  [2J old" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            response(b"no such tenant: se-cret", "text/plain", "403 Forbidden"),
            "answered 403: no such tenant: \\*\\*\\*",
        ),
        (response(b"", "", "307 Temporary Redirect", "Location: http://127.0.0.1:1/"), "answered 307"),
        (b"not http\r\n\r\n", "did not take the spans"),
    ],
    ids=["forbidden", "redirect", "no-http"],
)
def test_a_collector_that_refuses_ends_it_with_its_words(answer, words, run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=se-cret")
    path = exported(run_dir, tmp_path, 10)
    with canned(answer) as collector, pytest.raises(EndpointError, match=words):
        send(path, traces_url(collector.url))


def test_where_a_collector_takes_spans_follows_from_its_base():
    assert traces_url("http://h:4318") == "http://h:4318/v1/traces"
    assert traces_url("https://h/otlp/") == "https://h/otlp/v1/traces"
    assert traces_url("http://h:4318/v1/traces") == "http://h:4318/v1/traces"
    for wrong in ("h:4318", "grpc://h:4317", "http://user:pass@h"):
        with pytest.raises(UsageError, match="--endpoint") as refused:
            traces_url(wrong)
        assert "pass@" not in str(refused.value)
