"""Azure OpenAI: OpenAI's own chat and completions under other URLs, with a header of its own for the key.

A deployment's name stands in the path (`/openai/deployments/NAME/...?api-version=...`); the newer `/openai/v1` takes it
as the model. A key of another host than Azure's is OpenAI's business: `/openai/v1` alone says nothing.
"""

from dataclasses import replace
from typing import Final

from loadgen.dialects import chat, completions

API_VERSION: Final = "api-version=2024-10-21"
HOSTS: Final = r"\.(openai\.azure\.com|cognitiveservices\.azure\.com|services\.ai\.azure\.com)"

DEPLOYMENT: Final = replace(
    chat.DIALECT,
    name="azure",
    route="/openai/deployments/{model}/chat/completions",
    root="",
    whole="/openai/deployments/(?P<model>[^/]+)/chat/completions$",
    home=rf"{HOSTS}(/openai)?/?$",
    query=API_VERSION,
    auth=("api-key", "{key}"),
    key_variables=("AZURE_OPENAI_API_KEY",),
    takes=frozenset({"images", "tools", "messages"}),
    listing=None,
)

COMPLETIONS: Final = replace(
    DEPLOYMENT,
    name="azure-completions",
    route="/openai/deployments/{model}/completions",
    whole="/openai/deployments/(?P<model>[^/]+)/completions$",
    home="",
    write=completions.write,
    read=completions.read,
    text=completions.text,
    texts=completions.DIALECT.texts,
    takes=frozenset({"token_ids", "messages"}),
)

V1: Final = replace(
    DEPLOYMENT,
    name="azure-v1",
    route="/chat/completions",
    root="/openai/v1",
    whole=rf"{HOSTS}/openai/v1/chat/completions$",
    home=rf"{HOSTS}/openai/v1/?$",
    query="",
)
