"""Which path is which API, and which is a page."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from loadgen.simulator import pages
from loadgen.simulator.dialects.azure import azure, versioned
from loadgen.simulator.dialects.chat import CHAT
from loadgen.simulator.dialects.completions import COMPLETIONS
from loadgen.simulator.dialects.databricks import DATABRICKS_MESSAGES, INVOCATIONS, databricks
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.dialects.embeddings import EMBEDDINGS, GEMINI_EMBED, OLLAMA_EMBED
from loadgen.simulator.dialects.gemini import GEMINI_STREAM, GEMINI_WHOLE
from loadgen.simulator.dialects.llamacpp import LLAMACPP
from loadgen.simulator.dialects.messages import MESSAGES
from loadgen.simulator.dialects.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from loadgen.simulator.dialects.responses import RESPONSES
from loadgen.simulator.dialects.sglang import SGLANG
from loadgen.simulator.dialects.tgi import TGI_EITHER, TGI_STREAM, TGI_WHOLE
from loadgen.simulator.dialects.triton import TRITON_STREAM, TRITON_WHOLE
from loadgen.simulator.pages import Page

_OPENAI: Final = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "embeddings": EMBEDDINGS,
}
_GEMINI: Final[dict[str, Dialect | Page]] = {
    "streamGenerateContent": GEMINI_STREAM,
    "generateContent": GEMINI_WHOLE,
    "embedContent": GEMINI_EMBED,
    "batchEmbedContents": GEMINI_EMBED,
    "countTokens": pages.count_gemini,
}


def _generate(wants: dict[str, Any]) -> Dialect:
    """SGLang and TGI have one path in common; TGI's prompt is called `inputs`."""
    return TGI_WHOLE if "inputs" in wants else SGLANG


POSTS: Final[dict[str, Dialect | Page]] = {
    **{f"/v1/{path}": dialect for path, dialect in _OPENAI.items()},
    **{f"/openai/v1/{path}": azure(dialect) for path, dialect in _OPENAI.items()},
    **{f"/openai/deployments/{{model}}/{path}": versioned(dialect) for path, dialect in _OPENAI.items()},
    "/openai/responses": versioned(RESPONSES),
    **{f"/serving-endpoints/{path}": databricks(dialect) for path, dialect in _OPENAI.items()},
    "/serving-endpoints/{model}/invocations": INVOCATIONS,
    "/serving-endpoints/anthropic/v1/messages": DATABRICKS_MESSAGES,
    "/v1/messages": MESSAGES,
    "/generate": replace(SGLANG, by_body=_generate),
    "/generate_stream": TGI_STREAM,
    "/": TGI_EITHER,
    # The longer ones first: a model's name may hold a slash.
    "/v2/models/{model}/versions/{version}/generate_stream": TRITON_STREAM,
    "/v2/models/{model}/versions/{version}/generate": TRITON_WHOLE,
    "/v2/models/{model}/generate_stream": TRITON_STREAM,
    "/v2/models/{model}/generate": TRITON_WHOLE,
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": OLLAMA_GENERATE,
    "/api/embed": OLLAMA_EMBED,
    "/completion": LLAMACPP,
    **{
        f"/{version}/{place}models/{{model}}:{method}": served
        for version in ("v1beta", "v1")
        for place in ("", "publishers/google/", "projects/{project}/locations/{location}/publishers/google/")
        for method, served in _GEMINI.items()
    },
    "/v1/messages/count_tokens": pages.count_anthropic,
    "/tokenize": pages.tokenize,
    "/reset_prefix_cache": pages.forget,
    "/flush_cache": pages.forget,
    "/api/show": pages.ollama_show,
}

GETS: Final[dict[str, Page]] = {
    **dict.fromkeys(("/health", "/health_generate", "/v2/health/live", "/v2/health/ready"), pages.health),
    "/metrics": pages.metrics,
    **dict.fromkeys(("/v1/models", "/openai/v1/models", "/serving-endpoints/models"), pages.models),
    "/v1/models/{model}": pages.model,
    "/v1beta/models": pages.gemini_models,
    "/v1beta/models/{model}": pages.gemini_model,
    **dict.fromkeys(("/version", "/api/version"), pages.version),
    "/api/tags": pages.ollama_tags,
    "/v2/models/{model}": pages.triton_model,
    "/info": pages.tgi_info,
    "/props": pages.llamacpp_props,
    **dict.fromkeys(("/model_info", "/get_model_info"), pages.sglang_model_info),
    **dict.fromkeys(("/server_info", "/get_server_info"), pages.sglang_server_info),
    "/api/2.0/serving-endpoints": pages.databricks_endpoints,
    "/api/2.0/serving-endpoints/{model}": pages.databricks_endpoint,
}

OPEN: Final = frozenset({"/health", "/health_generate", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Paths that ask for no key."""


COMMON_PATHS: Final = tuple(f"/v1/{path}" for path in (*_OPENAI, "messages", "models"))
"""What an error about a path names: the ones that are mistaken most."""


@dataclass(frozen=True, slots=True)
class Route:
    """What serves a path, and what the path named."""

    method: str
    serves: Dialect | Page
    names: dict[str, str]


_PATTERNS: Final[list[tuple[re.Pattern[str], str, Dialect | Page]]] = [
    # A model's name may hold a slash; what stands behind it tells where it ends.
    (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(path)) + "$"), method, serves)
    for method, served in (("POST", POSTS), ("GET", GETS))
    for path, serves in served.items()
    if "{" in path
]


@lru_cache(1024)
def route(path: str, method: str) -> Route | None:
    """Who serves `path`, by `method` if somebody does and else by another; None where nobody does."""
    exact = {name: served[path] for name, served in (("POST", POSTS), ("GET", GETS)) if path in served}
    found = {name: Route(name, serves, {}) for name, serves in exact.items()}
    if not found:
        for pattern, name, serves in _PATTERNS:
            match = pattern.match(path)
            if match and name not in found:
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                found[name] = Route(name, serves, names)
    return found.get(method) or next(iter(found.values()), None)
