"""Databricks model serving: OpenAI-shaped answers, three ways to ask.

`databricks` and `databricks-completions` ask an endpoint by its name (`/serving-endpoints/NAME/invocations`); the
OpenAI-compatible route (`/serving-endpoints`, or the gateway's) takes the name as the model;
`/serving-endpoints/anthropic` speaks Anthropic's messages. Where a model reasons, the content is a list (chat.py reads
it); usage may stand in every chunk, with nulls.
"""

from dataclasses import replace
from typing import Any, Final

from loadgen.dialects import chat, completions, embeddings, messages
from loadgen.dialects.answer import Ask
from loadgen.dialects.dialect import Description

KEY: Final = ("DATABRICKS_TOKEN",)
HOSTS: Final = r"\.(cloud\.databricks\.com|azuredatabricks\.net|gcp\.databricks\.com)"
INVOCATIONS: Final = "/serving-endpoints/(?P<model>[^/]+)/invocations$"


TASKS: Final = {"llm/v1/chat": "databricks", "llm/v1/completions": "databricks-completions"}


def _api(described: Any) -> str | None:
    return TASKS.get(described["task"])


def write(ask: Ask) -> dict[str, Any]:
    """A chat request's JSON; the path names the model."""
    return chat.write(ask, names_model=False)


def write_completion(ask: Ask) -> dict[str, Any]:
    """A completion request's JSON; the path names the model."""
    return completions.write(ask, names_model=False)


CHAT: Final = replace(
    chat.DIALECT,
    name="databricks",
    route="/serving-endpoints/{model}/invocations",
    root="",
    whole=INVOCATIONS,
    home=rf"{HOSTS}/?$",
    write=write,
    key_variables=KEY,
    takes=frozenset({"images", "tools", "messages"}),
    listing=None,
    description=Description("/api/2.0/serving-endpoints/{model}", _api),
)

COMPLETIONS: Final = replace(
    completions.DIALECT,
    name="databricks-completions",
    route="/serving-endpoints/{model}/invocations",
    root="",
    whole=INVOCATIONS,
    write=write_completion,
    key_variables=KEY,
    takes=frozenset({"messages"}),
    listing=None,
)

OPENAI: Final = replace(
    chat.DIALECT,
    name="databricks-openai",
    root="/serving-endpoints",
    whole="/(serving-endpoints|ai-gateway/mlflow/v1)/chat/completions$",
    home=r"/(serving-endpoints|ai-gateway/mlflow/v1)/?$",
    key_variables=KEY,
    takes=frozenset({"images", "tools", "messages"}),
    listing=None,
)

ANTHROPIC: Final = replace(
    messages.DIALECT,
    name="databricks-messages",
    route="/serving-endpoints/anthropic/v1/messages",
    whole="/serving-endpoints/anthropic/v1/messages$",
    home="/serving-endpoints/anthropic(/v1)?/?$",
    auth=("Authorization", "Bearer {key}"),
    key_variables=KEY,
    listing=None,
)

EMBEDDINGS: Final = replace(
    embeddings.DIALECT,
    name="databricks-embeddings",
    root="/serving-endpoints",
    whole="/serving-endpoints/embeddings$",
    key_variables=KEY,
    listing=None,
)
