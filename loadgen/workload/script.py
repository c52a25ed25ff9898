"""What every unit of a run asks, in the order of its number: the synthetic prompts, data sets and traces of one recipe.

Unit n is a function of the recipe, the stage and n: not of the worker that sends it, nor of how many there are. A data set
starts over when it is through (`once`: it does not), a trace never. From its second pass on, and in every stage behind the
first, what is said opens with a nonce, or the prefix cache would remember it.
"""

import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadgen.dialects.answer import Ask
from loadgen.distribution import INPUT, OUTPUT, PAIR, PREFIX, TURNS, Distribution, FromFile, Prefixes, uniform
from loadgen.errors import UsageError
from loadgen.nonces import Nonces
from loadgen.tokens import load
from loadgen.workload import formats, lengths, traces
from loadgen.workload.containers import BadLine, OnBad, raise_it
from loadgen.workload.formats.row import Reading, Row
from loadgen.workload.images import url_of
from loadgen.workload.prompts import Lexicon
from loadgen.workload.traces import Course, Played

NONCE_WORDS: Final = 7
NONCES: Final = ("auto", "always", "never")

STAGE_SHIFT: Final = 32
"""As in the ids of requests."""

USUAL_OUTPUT_TOKENS: Final = 128
"""Where neither the user nor the file says how long an answer is to be."""

CHARACTERS_A_TOKEN: Final = 4
"""Of an answer that was recorded, where there is no tokenizer."""

KEPT_BLOCK_TOKENS: Final = 1 << 20
"""Blocks of a trace's prefixes that are kept: some 6 MB of text."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the server makes of a prompt, found out before the run (--calibrate-prompts)."""

    overhead_tokens: int = 0
    """What its chat template adds to every prompt."""
    tokens_per_word: float = 1.0
    """Of what it counts where there is no tokenizer; with one, 1."""

    def content(self, wanted: int) -> int:
        """The tokens (words) to be made for a prompt that the server counts as `wanted`."""
        return max(round((wanted - self.overhead_tokens) / self.tokens_per_word), 1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that units are made of. A value: the same recipe makes the same units."""

    model: str
    seed: int
    ignore_eos: bool
    most_turns: int
    real_history: bool
    turns: Distribution | None = None
    """Of synthetic sessions."""
    input_tokens: Distribution | FromFile | None = None
    """None: as the file says."""
    output_tokens: Distribution | FromFile | None = None
    pairs_file: str | None = None
    prefixes: Prefixes | None = None
    tokenizer: str | None = None
    nonce: str = "auto"
    file: Reading | None = None
    columns: Mapping[str, str] | None = None
    course: Course | None = None
    """Of a trace whose times are kept; None: its rows come when the load says."""
    once: bool = False
    skip_bad_lines: bool = False
    calibration: Calibration = Calibration()
    images: tuple[str, ...] = ()
    """In every prompt that has none of its own, as --image takes them."""
    targets: Mapping[str, int] = field(default_factory=dict)
    """By name, where there are several: so that the requests of a replay go where they went."""


class Asked(NamedTuple):
    """One request of a unit, and how long its parts are meant to be."""

    ask: Ask
    wanted_input_tokens: int | None
    wanted_output_tokens: int
    quoted: str
    """What later turns quote as its answer, where they do not quote the real one."""


class Unit(NamedTuple):
    """A request or a session; `due_ns` since the stage's start where it has a time of its own."""

    number: int
    due_ns: int | None
    session: int | None
    """Of a trace: units of one session wait for each other."""
    turn: int
    asked: tuple[Asked, ...]
    line: int
    target: int | None = None
    """Of a replay: the target that it went to."""


class Script:
    """The units of a recipe. UsageError where a file cannot be read or a tokenizer is not there."""

    def __init__(self, recipe: Recipe, on_bad: OnBad = raise_it) -> None:
        self._recipe = recipe
        self._on_bad = on_bad
        self.bad_lines = 0
        self.lexicon = Lexicon(load(recipe.tokenizer) if recipe.tokenizer is not None else None)
        columns = recipe.columns or {}
        self._input = (
            None if recipe.input_tokens is None else lengths.resolved(recipe.input_tokens, "input_tokens", columns)
        )
        self._output = (
            None if recipe.output_tokens is None else lengths.resolved(recipe.output_tokens, "output_tokens", columns)
        )
        self._pairs = None if recipe.pairs_file is None else lengths.pairs(recipe.pairs_file, columns)
        words = tuple(f"{word} ".encode() for word in self.lexicon.nonce_words)
        self._nonces = Nonces(words, NONCE_WORDS, recipe.seed)
        self._popularity = _popularity(recipe.prefixes)
        self._trace = Path(recipe.file.path).name if recipe.file is not None else ""
        self._prefix = lru_cache(maxsize=1024)(self._make_prefix)
        self._block = lru_cache(maxsize=1)(self._make_block)
        self._block_of = 0

    def units(self, stage: int) -> Iterator[Unit]:
        """Every unit of a stage, in order; without an end where nothing ends it."""
        recipe = self._recipe
        if recipe.file is None:
            number = 0
            while True:
                yield self._synthetic(stage, number)
                number += 1
        elif recipe.course is not None:
            for number, played in enumerate(traces.play(recipe.file, recipe.course, recipe.seed, self._seen_bad)):
                yield self._of_trace(stage, number, played)
        else:
            number = passes = 0
            while not (recipe.once and passes):
                began = number
                for row in formats.rows(recipe.file, self._seen_bad if not passes else _pass_over):
                    try:
                        unit = self._of_row(stage, number, passes, row)
                    except UsageError as error:
                        if not passes:
                            self._seen_bad(BadLine(recipe.file.path, row.line, str(error).removeprefix("--image: ")))
                        continue
                    yield unit
                    number += 1
                if number == began:
                    raise UsageError(f"{recipe.file.path} holds nothing that could be asked")
                passes += 1

    def _seen_bad(self, bad: BadLine) -> None:
        if not self._recipe.skip_bad_lines:
            self._on_bad(bad)
        self.bad_lines += 1

    def _id(self, stage: int, number: int, turn: int = 0) -> int:
        return (stage << STAGE_SHIFT) + number * self._recipe.most_turns + turn

    # synthetic

    def _synthetic(self, stage: int, number: int) -> Unit:
        recipe = self._recipe
        first = self._id(stage, number)
        turns = 1
        if recipe.turns is not None:
            turns = min(
                recipe.turns.draw(uniform(recipe.seed, TURNS, (stage << STAGE_SHIFT) + number)), recipe.most_turns
            )
        system, system_tokens = self._system(first)
        images = self._images(first, recipe.images)  # of a session in its first turn, where later ones quote them
        asked = []
        for turn in range(turns):
            input_tokens, output_tokens = self._drawn(first + turn, None, None, "")
            prompt, wanted = self._made(first + turn, input_tokens, system_tokens if not turn else 0, has_nonce=True)
            counted = wanted if not turn else None
            asked.append(
                self._asked(first + turn, prompt, system, counted, output_tokens, turns, images, is_first=not turn)
            )
        return Unit(number, None, None, 0, tuple(asked), 0)

    def _asked(
        self,
        request_id: int,
        prompt: str,
        system: str,
        wanted: int | None,
        output_tokens: int,
        turns: int,
        images: tuple[str, ...],
        *,
        is_first: bool,
    ) -> Asked:
        recipe = self._recipe
        quoted = ""
        if turns > 1 and not recipe.real_history:
            quoted = self.lexicon.text(output_tokens, random.Random((recipe.seed << 64) + (request_id << 1) + 1))
        ask = Ask(
            recipe.model,
            prompt,
            output_tokens,
            recipe.ignore_eos,
            system,
            images=images if is_first else (),
            shown=() if is_first else images,
        )
        return Asked(ask, wanted, output_tokens, quoted)

    def _images(self, request_id: int, images: Sequence[str]) -> tuple[str, ...]:
        """As URLs. UsageError for one that cannot be read."""
        if not images:
            return ()
        randomness = random.Random((self._recipe.seed << 64) + (request_id << 1))
        return tuple(image if image.startswith("data:image/") else url_of(image, randomness) for image in images)

    def _drawn(
        self, request_id: int, input_tokens: int | None, output_tokens: int | None, answer: str
    ) -> tuple[int | None, int]:
        """(input, output) tokens: as the user says, else as the file does."""
        recipe = self._recipe
        if self._pairs is not None:
            return lengths.drawn_pair(self._pairs, recipe.seed, PAIR, request_id)
        if self._input is not None:
            input_tokens = self._input.draw(uniform(recipe.seed, INPUT, request_id))
        if self._output is not None:
            output_tokens = self._output.draw(uniform(recipe.seed, OUTPUT, request_id))
        elif output_tokens is None:
            output_tokens = self._length_of(answer) if answer else USUAL_OUTPUT_TOKENS
        return input_tokens, max(output_tokens, 1)

    def _length_of(self, answer: str) -> int:
        if self.lexicon.has_tokenizer:
            return self.lexicon.count(answer)
        return -(-len(answer) // CHARACTERS_A_TOKEN)

    def _made(
        self, request_id: int, input_tokens: int | None, system_tokens: int, *, has_nonce: bool
    ) -> tuple[str, int]:
        """(a prompt of so many tokens, less what the template adds; the tokens that the server should count)."""
        recipe = self._recipe
        wanted = input_tokens or 1
        content = recipe.calibration.content(wanted)
        nonce = self._nonces.nonce(request_id).decode() if has_nonce and recipe.nonce != "never" else ""
        if (kept := self.lexicon.nonce_that_fits(content, NONCE_WORDS)) < NONCE_WORDS:
            nonce = "".join(f"{word} " for word in nonce.split()[:kept])
        randomness = random.Random((recipe.seed << 64) + (request_id << 1))
        text = self.lexicon.text(content, randomness, nonce)
        return (nonce + text).rstrip(" ") if not text else nonce + text, wanted + system_tokens

    # prefixes

    def _system(self, unit_id: int) -> tuple[str, int]:
        """(the system prompt of a unit, its tokens)."""
        recipe = self._recipe
        if recipe.prefixes is None or not recipe.prefixes.tokens:
            return "", 0
        drawn = uniform(recipe.seed, PREFIX, unit_id) * self._popularity[-1]
        return self._prefix(bisect(self._popularity, drawn)), recipe.prefixes.tokens

    def _make_prefix(self, prefix: int) -> str:
        assert self._recipe.prefixes is not None
        tokens = max(round(self._recipe.prefixes.tokens / self._recipe.calibration.tokens_per_word), 1)
        return self.lexicon.text(tokens, random.Random(f"{self._recipe.seed} prefix {prefix}"))

    # data sets

    def _of_row(self, stage: int, number: int, passes: int, row: Row) -> Unit:
        recipe = self._recipe
        first = self._id(stage, number)
        has_nonce = recipe.nonce == "always" or (recipe.nonce == "auto" and bool(stage or passes))
        if row.turns[0].prompt is None and not row.turns[0].messages:
            asked_once = self._of_lengths(stage, first, row)
            return Unit(number, None, None, 0, (asked_once,), row.line, self._target_of(row))
        system, _ = self._system(first)
        system = "\n\n".join(part for part in (system, row.system) if part)
        turns = row.turns[: recipe.most_turns]
        shown = self._images(first, turns[0].images or (() if turns[0].messages else recipe.images))
        asked = []
        for turn, one in enumerate(turns):
            _, output_tokens = self._drawn(first + turn, None, one.output_tokens, one.answer)
            nonce = self._nonces.nonce(first + turn).decode() if has_nonce else ""
            ask = Ask(
                recipe.model,
                nonce + (one.prompt or ""),
                output_tokens,
                recipe.ignore_eos,
                system,
                images=self._images(first + turn, one.images) if turn else shown,
                shown=shown if turn else (),
                messages=_opened(one.messages, nonce),
                tools=one.tools,
                extra=one.extra,
            )
            wanted = None
            if self.lexicon.has_tokenizer and not turn and one.prompt is not None:
                wanted = self.lexicon.count(ask.prompt) + recipe.calibration.overhead_tokens
                wanted += self.lexicon.count(system) if system else 0
            asked.append(Asked(ask, wanted, output_tokens, one.answer))
        return Unit(number, None, None, 0, tuple(asked), row.line)

    def _of_lengths(self, stage: int, request_id: int, row: Row) -> Asked:
        recipe, turn = self._recipe, row.turns[0]
        system, system_tokens = self._system(request_id)
        input_tokens, output_tokens = self._drawn(request_id, turn.input_tokens, turn.output_tokens, "")
        if row.hash_ids and self._input is None and self._pairs is None:
            prompt, wanted = self._of_blocks(stage, request_id, row, input_tokens or 1)
            wanted += system_tokens
        else:
            prompt, wanted = self._made(request_id, input_tokens, system_tokens, has_nonce=True)
        images = self._images(request_id, recipe.images)
        ask = Ask(recipe.model, prompt, output_tokens, recipe.ignore_eos, system, images=images)
        return Asked(ask, wanted, output_tokens, "")

    def _of_trace(self, stage: int, number: int, played: Played) -> Unit:
        row = played.row
        if row.turns[0].prompt is not None:
            unit = self._of_row(stage, number, 0, row)
            return unit._replace(due_ns=played.due_ns, session=played.session, turn=played.turn)
        asked = self._of_lengths(stage, self._id(stage, number), row)
        return Unit(number, played.due_ns, played.session, played.turn, (asked,), row.line, self._target_of(row))

    def _target_of(self, row: Row) -> int | None:
        return None if row.target is None else self._recipe.targets.get(row.target)

    # prompts in blocks

    def _of_blocks(self, stage: int, request_id: int, row: Row, input_tokens: int) -> tuple[str, int]:
        """Equal ids are equal text, within one trace, seed and stage; the last block is cut to the prompt's length."""
        if self._block_of != row.block_tokens:
            self._block_of = row.block_tokens
            self._block = lru_cache(maxsize=max(KEPT_BLOCK_TOKENS // row.block_tokens, 16))(self._make_block)
        content = self._recipe.calibration.content(input_tokens)
        words: list[str] = []
        salt = stage if self._recipe.nonce != "never" else 0
        for hash_id in islice(row.hash_ids, -(-content // row.block_tokens)):
            words += self._block(salt, hash_id, row.block_tokens)
        if len(words) < content and len(row.hash_ids) * row.block_tokens < content:
            randomness = random.Random((self._recipe.seed << 64) + (request_id << 1))
            words += randomness.choices(self.lexicon.words, k=content - len(row.hash_ids) * row.block_tokens)
        text = self.lexicon.fitted(words[:content], content)
        return text, input_tokens

    def _make_block(self, salt: int, hash_id: int, tokens: int) -> list[str]:
        return self.lexicon.block(tokens, random.Random(f"{self._recipe.seed} {salt} {self._trace} {hash_id}"))


def _pass_over(_: BadLine) -> None:
    """A bad line was told in the first pass."""


def _popularity(prefixes: Prefixes | None) -> list[float]:
    """The running sum of the prefixes' weights."""
    if prefixes is None:
        return []
    return list(accumulate((number + 1) ** -prefixes.zipf for number in range(prefixes.count)))


def _opened(messages: tuple[dict[str, Any], ...], nonce: str) -> tuple[dict[str, Any], ...]:
    """The conversation with the nonce before its first words."""
    if not nonce or not messages:
        return messages
    first = messages[0]
    content = first.get("content")
    if isinstance(content, str):
        content = nonce + content
    elif isinstance(content, list):
        content = [{"type": "text", "text": nonce}, *content]
    else:
        content = nonce
    return ({**first, "content": content}, *messages[1:])
