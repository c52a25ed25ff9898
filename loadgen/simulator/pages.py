"""What is asked besides completions: models, health, versions, counts of tokens, metrics, each in its server's own words."""

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from loadgen.simulator.ask import Call, Refusal, Rules, check_model, json_object, text_or_ids
from loadgen.simulator.dialects import gemini, messages, ollama, openai
from loadgen.simulator.exposition import CONTENT_TYPE, exposition
from loadgen.simulator.wording import to_json

if TYPE_CHECKING:
    from loadgen.simulator.server import Server

JSON: Final = "application/json"
VOCABULARY: Final = 32_000

Page = Callable[["Server", Call], tuple[str, bytes]]
"""(content type, body) of a 200; Refusal otherwise."""


def _json(value: object) -> tuple[str, bytes]:
    return JSON, to_json(value)


def _ours(call: Call, rules: Rules) -> str:
    check_model(call.names["model"], rules)
    return rules.model


def health(_: "Server", __: Call) -> tuple[str, bytes]:
    return JSON, b"{}"


def version(_: "Server", __: Call) -> tuple[str, bytes]:
    """GET /version of vLLM, /api/version of Ollama: those whose words are spoken here."""
    return _json({"version": "0.12.0"})


def models(server: "Server", call: Call) -> tuple[str, bytes]:
    """GET /v1/models, with vLLM's max_model_len; to a client of Google's, which has the same path, in its words."""
    if "x-goog-api-key" in call.fields:
        return gemini_models(server, call)
    rules = server.settings.rules
    return _json({"object": "list", "data": [_model(server, name) for name in (rules.model, *rules.adapters)]})


def model(server: "Server", call: Call) -> tuple[str, bytes]:
    """GET /v1/models/M."""
    if "x-goog-api-key" in call.fields:
        return gemini_model(server, call)
    _ours(call, server.settings.rules)
    return _json(_model(server, call.names["model"]))


def _model(server: "Server", name: str) -> dict[str, Any]:
    settings = server.settings
    return {
        "id": name,
        "object": "model",
        "created": settings.style.created_s,
        "owned_by": "loadgen",
        "max_model_len": settings.rules.max_model_len,
    }


def tokenize(server: "Server", call: Call) -> tuple[str, bytes]:
    """vLLM's POST /tokenize: of a prompt, or of messages."""
    rules = server.settings.rules
    wants = json_object(call.body)
    if "model" in wants:
        check_model(wants["model"], rules)
    chat = "messages" in wants
    tokens = openai.messages_tokens(wants, rules) if chat else text_or_ids(wants.get("prompt"), "prompt")
    ids = [token if isinstance(token, int) else zlib.crc32(repr(token).encode()) % VOCABULARY for token in tokens]
    return _json({"count": len(ids), "max_model_len": rules.max_model_len, "tokens": ids, "token_strs": None})


def metrics(server: "Server", _: Call) -> tuple[str, bytes]:
    settings = server.settings
    live = [reply for connection in server.connections if (reply := connection.reply) is not None]
    text = exposition(
        settings.metrics, settings.rules.model, server.tally, server.engine, live, settings.kv_cache_tokens
    )
    return CONTENT_TYPE, text


def forget(server: "Server", _: Call) -> tuple[str, bytes]:
    """vLLM's POST /reset_prefix_cache, SGLang's /flush_cache."""
    if server.engine.prefix_cache is not None:
        server.engine.prefix_cache.clear()
    return _json({"success": True})


def count_anthropic(server: "Server", call: Call) -> tuple[str, bytes]:
    """POST /v1/messages/count_tokens."""
    wants = json_object(call.body)
    check_model(wants.get("model"), server.settings.rules)
    tokens, _ = messages.prompt_tokens(wants, server.settings.rules)
    return _json({"input_tokens": len(tokens)})


def count_gemini(server: "Server", call: Call) -> tuple[str, bytes]:
    """POST ...:countTokens."""
    _ours(call, server.settings.rules)
    return _json({"totalTokens": len(gemini.contents_tokens(json_object(call.body), server.settings.rules))})


def gemini_models(server: "Server", _: Call) -> tuple[str, bytes]:
    return _json({"models": [_gemini_model(server.settings.rules)]})


def gemini_model(server: "Server", call: Call) -> tuple[str, bytes]:
    _ours(call, server.settings.rules)
    return _json(_gemini_model(server.settings.rules))


def _gemini_model(rules: Rules) -> dict[str, Any]:
    return {
        "name": f"models/{rules.model}",
        "displayName": rules.model,
        "inputTokenLimit": rules.max_model_len,
        "outputTokenLimit": rules.max_model_len,
        "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
    }


def ollama_tags(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /api/tags."""
    name = f"{server.settings.rules.model}:latest"
    details = {"format": "gguf", "family": "simulated", "parameter_size": "1B", "quantization_level": "F16"}
    modified = "2024-01-01T00:00:00Z"
    told = {"name": name, "model": name, "modified_at": modified, "size": 1, "digest": "0" * 64, "details": details}
    return _json({"models": [told]})


def ollama_show(server: "Server", call: Call) -> tuple[str, bytes]:
    """POST /api/show."""
    ollama.check_name(json_object(call.body), server.settings.rules)
    return _json({"details": {"family": "simulated"}, "model_info": {}, "capabilities": ["completion", "tools"]})


def triton_model(server: "Server", call: Call) -> tuple[str, bytes]:
    """GET /v2/models/M."""
    text = {"datatype": "BYTES", "shape": [-1, -1]}
    return _json(
        {
            "name": _ours(call, server.settings.rules),
            "versions": ["1"],
            "platform": "ensemble",
            "inputs": [{"name": "text_input", **text}],
            "outputs": [{"name": "text_output", **text}],
        }
    )


def tgi_info(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /info."""
    rules = server.settings.rules
    most = server.settings.engine.max_running
    return _json({"model_id": rules.model, "max_total_tokens": rules.max_model_len, "max_concurrent_requests": most})


def llamacpp_props(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /props."""
    settings = server.settings
    told = {"n_ctx": settings.rules.max_model_len}
    return _json(
        {
            "default_generation_settings": told,
            "total_slots": settings.engine.max_running,
            "model_alias": settings.rules.model,
            "model_path": settings.rules.model,
        }
    )


def sglang_model_info(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /model_info."""
    return _json({"model_path": server.settings.rules.model, "is_generation": True})


def sglang_server_info(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /server_info."""
    settings = server.settings
    return _json(
        {
            "model_path": settings.rules.model,
            "served_model_name": settings.rules.model,
            "context_length": settings.rules.max_model_len,
            "max_running_requests": settings.engine.max_running,
            "max_total_num_tokens": settings.kv_cache_tokens,
            "incremental_streaming_output": settings.style.cumulative == "off",
        }
    )


def databricks_endpoints(server: "Server", _: Call) -> tuple[str, bytes]:
    """GET /api/2.0/serving-endpoints."""
    return _json({"endpoints": [_databricks_endpoint(server.settings.rules)]})


def databricks_endpoint(server: "Server", call: Call) -> tuple[str, bytes]:
    """GET /api/2.0/serving-endpoints/NAME."""
    rules = server.settings.rules
    if call.names["model"] != rules.model:
        raise Refusal(404, f"Endpoint with name '{call.names['model']}' does not exist.")
    return _json(_databricks_endpoint(rules))


def _databricks_endpoint(rules: Rules) -> dict[str, Any]:
    entity = {
        "name": f"{rules.model}-1",
        "entity_name": f"system.ai.{rules.model}",
        "entity_version": "1",
        "min_provisioned_throughput": 0,
        "max_provisioned_throughput": 9800,
        "state": {"deployment": "DEPLOYMENT_READY"},
    }
    return {
        "name": rules.model,
        "task": rules.task,
        "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
        "config": {"served_entities": [entity]},
        "endpoint_type": "FOUNDATION_MODEL_API",
    }
