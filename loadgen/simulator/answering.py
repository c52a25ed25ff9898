"""A request, from its last byte to the engine, or to what is answered instead."""

import hmac
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from loadgen.simulator.answer import answer_to
from loadgen.simulator.ask import Call, Refusal, json_object
from loadgen.simulator.dialects import openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.engine import QueueFull
from loadgen.simulator.faults import FAULTS, OF_JSON_TOO, REFUSAL_STATUS
from loadgen.simulator.pages import JSON
from loadgen.simulator.prefix_cache import blocks_of
from loadgen.simulator.routes import COMMON_PATHS, OPEN, Route, route
from loadgen.simulator.stream import Reply
from loadgen.simulator.truth import Row
from loadgen.simulator.wording import words

if TYPE_CHECKING:
    from loadgen.simulator.connection import Connection

BODY_LIMIT_BYTES: Final = 64 * 1024 * 1024
KEY_FIELDS: Final = ("x-api-key", "api-key", "x-goog-api-key")
"""The header fields that hold a key in some dialect, besides `authorization`."""

SIGN_IN: Final = b"<html><body>Sign in</body></html>"


def answer(connection: "Connection", call: Call) -> Reply | None:
    """Answer a request; the reply if the engine is to make it, which the caller then lets begin (`accepted`)."""
    found = route(call.path, call.method)
    dialect = found.serves if found is not None and isinstance(found.serves, Dialect) else None
    try:
        found = _checked(found, call, connection.server.settings.api_key)
        if not isinstance(found.serves, Dialect):
            content_type, body = found.serves(connection.server, _named(call, found))
            connection.send_whole(200, content_type, body, call.keep_alive)
            return None
        dialect = found.serves
    except Refusal as refusal:
        refuse(connection, call, refusal, dialect, allow=found.method if found is not None else None)
        return None
    return _complete(connection, _named(call, found), dialect)


def _named(call: Call, found: Route) -> Call:
    return call._replace(names=found.names) if found.names else call


def _checked(found: Route | None, call: Call, key: str | None) -> Route:
    if found is None:
        raise Refusal(404, f"Unknown path {call.path}; among those served are {', '.join(COMMON_PATHS)}.")
    if call.method != found.method:
        raise Refusal(405, f"{call.path} takes {found.method}, not {call.method}.")
    if key is not None and call.path not in OPEN and not _holds(call, found, key):
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")
    return found


def _holds(call: Call, found: Route, key: str) -> bool:
    """Whether the key is where this API looks for it; a page takes it anywhere."""
    names = found.serves.keys if isinstance(found.serves, Dialect) else KEY_FIELDS
    wanted = key.encode()
    given = [call.fields[name].encode("latin-1") for name in names if name in call.fields]
    if "x-goog-api-key" in names:
        given += [word.encode() for word in parse_qs(call.query).get("key", [])]
    bearer = call.fields.get("authorization", "").encode("latin-1")
    return hmac.compare_digest(bearer, b"Bearer " + wanted) or any(hmac.compare_digest(one, wanted) for one in given)


def _complete(connection: "Connection", call: Call, dialect: Dialect) -> Reply | None:
    server = connection.server
    settings = server.settings
    fault = server.maybe_fault()
    try:
        if call.too_long:
            raise Refusal(413, f"A request may have {BODY_LIMIT_BYTES} bytes.")
        body = json_object(call.body)
        if dialect.by_body is not None:
            dialect = dialect.by_body(body)
        wants = dialect.read(body, call, settings.rules)
        response_id = f"{dialect.id_prefix}{server.id_draws.getrandbits(128):032x}"
        said = answer_to(wants, settings.rules, server.draws, response_id)
        if fault in REFUSAL_STATUS:
            raise Refusal(REFUSAL_STATUS[fault], f"{FAULTS[fault]} (asked for by --fault)", "fault", fault)
    except Refusal as refusal:
        refuse(connection, call, refusal, dialect, fault=fault if refusal.code == fault else None)
        return None
    if fault == "html":
        sent_ns = connection.send_whole(200, "text/html; charset=utf-8", SIGN_IN, call.keep_alive)
        server.log.add(_row(connection, call, 200, sent_ns, fault))
        return None
    if not wants.stream and fault not in OF_JSON_TOO:
        fault = None
    blocks = None
    if server.engine.prefix_cache is not None and wants.cacheable:
        output = words(settings.style.text, said.output_tokens)[: said.output_tokens]
        blocks = blocks_of([*wants.prompt, *(word.decode().lstrip() for word in output)], wants.salt)
    reply = Reply(connection, dialect, said, call, stream=wants.stream, fault=fault, blocks=blocks)
    try:
        server.submit(reply, call.read_ns)
    except QueueFull:
        busy = Refusal(503, f"{server.engine.queued} requests wait already.", "service_unavailable", "queue_full")
        refuse(connection, call, busy, dialect)
        return None
    return reply


def refuse(
    connection: "Connection",
    call: Call,
    refusal: Refusal,
    dialect: Dialect | None,
    *,
    allow: str | None = None,
    fault: str | None = None,
) -> None:
    """Answer with an error, in the dialect's shape, and log it if it is about a completion."""
    status = refusal.status
    if dialect is not None and fault is None:
        status = dialect.statuses.get("busy" if refusal.code == "queue_full" else status, status)
    fields = []
    if status == 405 and allow:
        fields.append(f"allow: {allow}")
    if status == 401:
        fields.append("www-authenticate: Bearer")
    if status in (429, 503, 529) and (dialect is None or dialect.retry_after):
        fields.append("retry-after: 1")
    body = (dialect.refused if dialect is not None else openai.refused)(refusal, status)
    sent_ns = connection.send_whole(status, JSON, body, call.keep_alive, *fields)
    if dialect is not None:
        connection.server.log.add(_row(connection, call, status, sent_ns, fault))


def _row(connection: "Connection", call: Call, status: int, sent_ns: int, fault: str | None) -> Row:
    return Row(call.read_ns, connection.number, status, first_byte_ns=sent_ns, last_byte_ns=sent_ns, fault=fault)
