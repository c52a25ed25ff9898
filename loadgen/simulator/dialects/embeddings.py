"""Embeddings of OpenAI, Ollama and Gemini: no stream, a vector for each input, all of them in one pass of the engine.

A vector is made of its input's words: equal inputs have equal vectors, of length 1.
"""

import base64
import math
import random
import struct
import zlib
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Final

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Rules, Wants, check_model, text_or_ids, whole, wrong
from loadgen.simulator.dialects import gemini, ollama, openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Wording

DIMENSIONS: Final = 256


def read(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST /v1/embeddings: a string, a list of strings, token ids, or lists of them."""
    check_model(call.names.get("model", wants.get("model")), rules)
    form = wants.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise wrong("encoding_format", "encoding_format must be float or base64.")
    dimensions = whole(wants, "dimensions") or DIMENSIONS
    return _wants(_inputs(wants.get("input")), dimensions, form)


def read_ollama(wants: dict[str, Any], _: Call, rules: Rules) -> Wants:
    """POST /api/embed."""
    ollama.check_name(wants, rules)
    return _wants(_inputs(wants.get("input")), whole(wants, "dimensions") or DIMENSIONS, "ollama")


def read_gemini(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST ...:embedContent and ...:batchEmbedContents."""
    check_model(call.names.get("model"), rules)
    batch = "requests" in wants
    requests = wants["requests"] if batch else [wants]
    if not isinstance(requests, list) or not requests or not all(isinstance(item, dict) for item in requests):
        raise wrong("requests", "requests must be a list of at least one request.")
    inputs = [gemini.parts_tokens(request.get("content"), rules) for request in requests]
    dimensions = whole(gemini.fields(requests[0]), "outputDimensionality") or DIMENSIONS
    return _wants(inputs, dimensions, "gemini-batch" if batch else "gemini")


def _wants(inputs: list[list[Hashable]], dimensions: int, form: str) -> Wants:
    return Wants(
        False,
        [token for tokens in inputs for token in tokens],
        cacheable=False,
        embeds=True,
        own={"vectors": [_vector(repr(tokens).encode(), dimensions) for tokens in inputs], "form": form},
    )


def _inputs(given: object) -> list[list[Hashable]]:
    several = isinstance(given, list) and given and isinstance(given[0], str | list)
    items = given if several and isinstance(given, list) else [given]
    return [text_or_ids(item, "input") for item in items]


@lru_cache(4)
def _circle(dimensions: int) -> tuple[float, ...]:
    draws = random.Random(dimensions)
    numbers = [draws.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(number * number for number in numbers))
    return tuple(round(number / length, 8) for number in numbers)


def _vector(said: bytes, dimensions: int) -> list[float]:
    circle = _circle(dimensions)
    start = zlib.crc32(said) % dimensions  # the same numbers for all, from another one on
    return [*circle[start:], *circle[:start]]


class EmbeddingsWording(Wording):
    """One JSON object, in the shape of `own["form"]`."""

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        return []

    def closing(self) -> list[Event]:
        return []

    def error(self, message: str) -> list[Event]:
        return []

    def whole(self) -> dict[str, Any]:
        answer = self.answer
        vectors: list[list[float]] = answer.own["vectors"]
        match answer.own["form"]:
            case "ollama":
                return {
                    "model": self.style.model,
                    "embeddings": vectors,
                    "total_duration": answer.queue_ns + answer.prefill_ns,
                    "load_duration": answer.queue_ns,
                    "prompt_eval_count": answer.prompt_tokens,
                }
            case "gemini":
                return {"embedding": {"values": vectors[0]}}
            case "gemini-batch":
                return {"embeddings": [{"values": vector} for vector in vectors]}
            case "base64":
                told: list[object] = [
                    base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors
                ]
            case _:
                told = list(vectors)
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": said} for index, said in enumerate(told)],
            "model": self.style.model,
            "usage": {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens},
        }


def embeds(answer: Answer) -> bool:
    """Whether the answer is vectors."""
    return "vectors" in answer.own


EMBEDDINGS = Dialect("embeddings", read, EmbeddingsWording, openai.refused, id_prefix="embd-")
OLLAMA_EMBED = Dialect("ollama embed", read_ollama, EmbeddingsWording, ollama.refused)
GEMINI_EMBED = Dialect("gemini embed", read_gemini, EmbeddingsWording, gemini.refused, keys=("x-goog-api-key",))
