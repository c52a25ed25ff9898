"""Azure OpenAI: the deployment's name in the path and `api-version` in the query, or /openai/v1; the key in `api-key`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from loadgen.simulator.ask import Call, Refusal, Rules, Wants
from loadgen.simulator.dialects import chat, openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import to_json


def read_chat(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """A chat request; the answer has the content filter's results."""
    return chat.read_as(wants, call, rules, {"azure": True})


def refused(refusal: Refusal, status: int) -> bytes:
    """OpenAI's shape, but for what the platform itself says: a code and a message."""
    if status == 401:
        message = "Access denied due to invalid subscription key or wrong API endpoint."
        return to_json({"error": {"code": "401", "message": message}})
    if refusal.code == "model_not_found":
        message = "The API deployment for this resource does not exist."
        return to_json({"error": {"code": "DeploymentNotFound", "message": message}})
    if status in (404, 429):
        return to_json({"error": {"code": str(status), "message": refusal.message}})
    return openai.refused(refusal, status)


def azure(dialect: Dialect) -> Dialect:
    """An OpenAI dialect as Azure's /openai/v1 serves it."""
    read = read_chat if dialect is chat.CHAT else dialect.read
    return replace(dialect, name=f"azure {dialect.name}", read=read, refused=refused, keys=("api-key",))


def versioned(dialect: Dialect) -> Dialect:
    """The same below /openai/deployments, where the query has to name a version of the API."""
    served = azure(dialect)
    return replace(served, read=_versioned(served.read))


def _versioned(
    read: Callable[[dict[str, Any], Call, Rules], Wants],
) -> Callable[[dict[str, Any], Call, Rules], Wants]:
    def checked(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
        if not parse_qs(call.query).get("api-version"):
            raise Refusal(404, "Resource not found", code="404")
        return read(wants, call, rules)

    return checked
