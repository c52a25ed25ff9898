"""Databricks model serving: the endpoint's name in the path or as the model, the task by what the payload holds.

Reads `messages` as chat, `prompt` as completions, `input` as embeddings. Usage stands in every event, as null until the
last one; reasoning comes as a list in `content`. A 429 tells in its body when to come back, and in no header.
"""

from dataclasses import replace
from typing import Any

from loadgen.simulator.ask import Call, Refusal, Rules, Wants, wrong
from loadgen.simulator.dialects import chat, completions, embeddings, messages
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import to_json

RETRY_AFTER_S = 1

_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "REQUEST_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


def read_chat(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """A chat request, of either route."""
    return chat.read_as(wants, call, rules, {"databricks": True})


def refused(refusal: Refusal, status: int) -> bytes:
    """The platform's shape; the rate limit's is another one."""
    if status == 401:
        message = "Credential was not sent or was of an unsupported type for this API."
        return to_json({"error_code": 401, "message": message})
    if status == 429:
        told = {
            "message": refusal.message,
            "type": "rate_limit_exceeded",
            "code": 429,
            "limit_type": "input_tokens_per_minute",
            "limit": 200000,
            "current": 200150,
            "retry_after": RETRY_AFTER_S,
        }
        return to_json({"error": told})
    return to_json({"error_code": _CODES.get(status, "BAD_REQUEST"), "message": refusal.message})


DATABRICKS_MESSAGES = replace(messages.MESSAGES, name="databricks messages", read=messages.read_without_version)


def databricks(dialect: Dialect) -> Dialect:
    """An OpenAI dialect as Databricks serves it, with the endpoint as the model."""
    read = read_chat if dialect is chat.CHAT else dialect.read
    return replace(dialect, name=f"databricks {dialect.name}", read=read, refused=refused, retry_after=False)


def by_task(wants: dict[str, Any]) -> Dialect:
    """What an invocation is, by what it holds."""
    for name, dialect in _TASKS.items():
        if name in wants:
            return dialect
    raise wrong("messages", "The payload must hold messages, prompt or input.")


_TASKS = {
    "messages": databricks(chat.CHAT),
    "prompt": databricks(completions.COMPLETIONS),
    "input": databricks(embeddings.EMBEDDINGS),
}
INVOCATIONS = replace(databricks(chat.CHAT), name="databricks invocations", by_body=by_task)
