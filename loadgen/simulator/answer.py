"""What the model will say: how long, which part of it is what, and how it ends. Drawn when the request comes."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from loadgen.simulator.ask import Refusal, Rules, Wants

CONTENT: Final = "content"
REASONING: Final = "reasoning"
TOOL: Final = "tool"
REFUSAL: Final = "refusal"
HIDDEN: Final = "hidden"
"""The kinds of a part; hidden tokens are spent and counted, and never sent."""

MADE_UP_TOOL: Final = "lookup"
"""What is called where a call was asked for by `tool_call_share` and no tool was offered."""


class Part(NamedTuple):
    """Tokens number `first` up to, and without, `end` of a response."""

    kind: str
    first: int
    end: int


@dataclass(slots=True)
class Answer:
    """What one response says. `finish` is "length", "stop", "tool" or "refusal".

    Set while it is on its way: `cached_tokens` when it is admitted, the three times when it ends. A response with a
    Content-Length, which is told before them, keeps their zeros.
    """

    response_id: str
    prompt_tokens: int
    output_tokens: int
    parts: tuple[Part, ...]
    finish: str = "length"
    tool: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    cached_tokens: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0

    @property
    def reasoning_tokens(self) -> int:
        return sum(part.end - part.first for part in self.parts if part.kind in (REASONING, HIDDEN))


@dataclass(frozen=True, slots=True)
class Draws:
    """Each purpose has a stream of its own, so that switching one option on does not change the others' draws."""

    length: random.Random
    kind: random.Random

    @classmethod
    def of(cls, seed: int) -> "Draws":
        return cls(random.Random(f"output {seed}"), random.Random(f"kind {seed}"))


def answer_to(wants: Wants, rules: Rules, draws: Draws, response_id: str) -> Answer:
    """Draw the answer; Refusal (400) where it would not fit into the model's context."""
    output_tokens, finish = _length(wants, rules, draws.length)
    prompt_tokens = len(wants.prompt)
    if prompt_tokens + output_tokens > rules.max_model_len:
        raise Refusal(
            400,
            f"This model's maximum context length is {rules.max_model_len} tokens. However, you requested"
            f" {prompt_tokens + output_tokens} tokens ({prompt_tokens} in the prompt, {output_tokens} in the answer).",
            code="context_length_exceeded",
        )
    if wants.embeds:
        return Answer(response_id, prompt_tokens, 0, (), "stop", own=wants.own)
    kind = _kind(wants, rules, draws.kind)
    thought = min(rules.reasoning_tokens, output_tokens) if wants.reasoning != "none" else 0
    parts = []
    if thought:
        parts.append(Part(REASONING if wants.reasoning == "shown" else HIDDEN, 0, thought))
    if thought < output_tokens:
        parts.append(Part(kind, thought, output_tokens))
        finish = {TOOL: "tool", REFUSAL: "refusal"}.get(kind, finish)
    tool = wants.tools[0] if wants.tools else MADE_UP_TOOL
    return Answer(response_id, prompt_tokens, output_tokens, tuple(parts), finish, tool, wants.own)


def _length(wants: Wants, rules: Rules, draws: random.Random) -> tuple[int, str]:
    if wants.embeds:
        return 0, "stop"
    limit = wants.limit if wants.limit is not None else rules.default_output_tokens
    if rules.eos_share == 0 or wants.ignore_eos:
        return limit, "length"
    # Geometric: the number of the token behind which the answer ends.
    ends_at = 1 if rules.eos_share == 1 else 1 + int(math.log(1 - draws.random()) / math.log(1 - rules.eos_share))
    ends_at = max(ends_at, wants.least)
    return (ends_at, "stop") if ends_at < limit else (limit, "length")


def _kind(wants: Wants, rules: Rules, draws: random.Random) -> str:
    if wants.must_call:
        return TOOL
    share = rules.tool_call_share if rules.tool_call_share is not None else float(bool(wants.tools))
    # Nothing is drawn where there is no choice.
    if wants.may_call and share and (share == 1 or draws.random() < share):
        return TOOL
    if wants.may_refuse and rules.refusal_share and draws.random() < rules.refusal_share:
        return REFUSAL
    return CONTENT
