"""Spec -> recipe: which file is read and how, and what the preparer makes units of."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import orjson

from loadgen.clock import in_ns
from loadgen.dialects import AUTO, find, spoken
from loadgen.distribution import Distribution, FromFile, Prefixes
from loadgen.errors import UsageError
from loadgen.forecast import Means
from loadgen.preparation import ring_bytes
from loadgen.spec import Spec, most_turns, targets, workload_file
from loadgen.tokens import load
from loadgen.wording import Wording
from loadgen.workload import formats, lengths, traces
from loadgen.workload.containers import BadLine, raise_it
from loadgen.workload.formats.row import Reading
from loadgen.workload.prompts import Lexicon
from loadgen.workload.script import USUAL_OUTPUT_TOKENS, Calibration, Recipe, Script
from loadgen.workload.survey import Lengths, survey

MOST_SESSION_TURNS: Final = 128
"""Of a conversation of a data set; what is longer ends there."""

TRIED_UNITS: Final = 100
"""Units of a file that are made before anything is called, to refuse what cannot be used."""


def has_script(spec: Spec) -> bool:
    """Whether requests are prepared while the run goes on; else all that differs in them is their nonce."""
    return (
        workload_file(spec) is not None
        or spec.lengths is not None
        or spec.prefixes is not None
        or spec.nonce == "never"
        or not all(_is_one(lengths) for lengths in (spec.input_tokens, spec.output_tokens))
    )


def _is_one(tokens: Distribution | FromFile | None) -> bool:
    return isinstance(tokens, Distribution) and tokens.is_fixed


def file_of(spec: Spec) -> Reading | None:
    """How the data set or trace is read. UsageError where it is of no known format."""
    written = workload_file(spec)
    if written is None:
        return None
    columns = spec.columns or {}
    if unknown := columns.keys() - formats.FIELDS.keys():
        raise UsageError(f"--columns: {min(unknown)!r} is no field; allowed are {', '.join(formats.FIELDS)}")
    field = "--replay" if spec.replay is not None else "--trace" if spec.trace is not None else "--dataset"
    try:
        path, format_ = (written, "capture") if spec.replay is not None else formats.named(written)
        how = formats.reading(path, format_, columns, spec.conversations)
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None
    if spec.trace is not None and not how.has_times:
        raise UsageError(
            f"--trace: {path} is {how.format}, which has no times; allowed is --dataset, or a column of times with "
            "--columns timestamp=NAME"
        )
    if spec.input_tokens is not None and not how.has_times and how.format != "lengths":
        raise UsageError(f"--input-tokens: the prompts are those of {path}; leave it out")
    return how


def has_sessions(spec: Spec, how: Reading | None) -> bool:
    """Whether the units are sessions of several turns."""
    if spec.turns is not None:
        return True
    if how is None:
        return False
    return how.conversations == "sessions" or (how.conversations == "auto" and how.format == "sharegpt")


def recipe(spec: Spec, model: str, calibration: Calibration = Calibration()) -> Recipe:  # noqa: B008 - a value
    """What the preparer makes units of. UsageError where a file is of no known format."""
    how = file_of(spec)
    sessions = has_sessions(spec, how)
    plays = any(stage.arrivals is not None and stage.arrivals.kind == "recorded" for stage in spec.stages)
    if how is not None:
        for name in ("requests", "sessions"):
            if sessions == (name == "requests") and any(getattr(stage, name) is not None for stage in spec.stages):
                other = "sessions" if sessions else "requests"
                raise UsageError(f"--{name}: {how.path} has {other} as its units; give --{other} instead")
    prefixes = spec.prefixes
    if prefixes is None and spec.prefix_tokens:
        prefixes = Prefixes(1, spec.prefix_tokens)
    return Recipe(
        model=model,
        seed=spec.seed,
        ignore_eos=spec.ignore_eos,
        most_turns=turns_of(spec, how),
        real_history=spec.history == "real",
        turns=spec.turns,
        input_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        pairs_file=spec.lengths,
        prefixes=prefixes,
        tokenizer=spec.tokenizer,
        nonce=spec.nonce,
        file=how,
        columns=spec.columns,
        course=course(spec) if plays else None,
        once=spec.once,
        skip_bad_lines=spec.skip_bad_lines,
        calibration=calibration,
        images=spec.image,
        targets={name: number for number, name in enumerate(targets.names(spec))} if spec.targets else {},
    )


def course(spec: Spec) -> traces.Course:
    """What of the trace is played."""
    return traces.Course(
        in_ns(spec.from_s), None if spec.to_s is None else in_ns(spec.to_s), spec.time_scale, spec.sample
    )


def turns_of(spec: Spec, how: Reading | None) -> int:
    """The most turns of a unit: part of how requests are numbered."""
    if how is not None and has_sessions(spec, how):
        return MOST_SESSION_TURNS
    return most_turns(spec)


def try_script(spec: Spec, worded: Sequence[Wording]) -> None:
    """Make the first units, worded as the preparer will for each target. UsageError, with file and line, where that does
    not work."""
    made = Script(recipe(spec, spec.model or "model"))
    bodies = [spoken(one).body for one in worded]
    ignores_eos = [one.ignore_eos for one in targets.each(spec)]
    for _, unit in zip(range(TRIED_UNITS), made.units(0), strict=False):
        for asked in unit.asked:
            try:
                for body, ignore_eos in zip(bodies, ignores_eos, strict=True):
                    orjson.dumps(body(replace(asked.ask, ignore_eos=ignore_eos)))
            except UsageError as error:
                raise UsageError(f"{workload_file(spec)}: line {unit.line}: {error}") from None


def first_output_tokens(spec: Spec) -> float:
    """Output tokens that a request is to have: on average, or where a file says it over its first units."""
    if isinstance(spec.output_tokens, Distribution):
        return spec.output_tokens.mean
    units = islice(Script(recipe(spec, spec.model or "model"), _pass_over).units(0), TRIED_UNITS)
    wanted = [asked.wanted_output_tokens for unit in units for asked in unit.asked]
    return sum(wanted) / max(len(wanted), 1)


CALIBRATION_TOKENS: Final = (32, 288)
"""Of the prompts that are tried: the difference tells of the words, the rest of the template."""


def calibrated(spec: Spec, counted: Callable[[list[str]], list[int]]) -> Calibration:
    """What the server adds to prompts; `counted` has it count some. UsageError where that makes no sense."""
    lexicon = Lexicon(load(spec.tokenizer) if spec.tokenizer is not None else None)
    randomness = random.Random(f"{spec.seed} calibration")
    short, long = CALIBRATION_TOKENS
    few, many = counted([lexicon.text(tokens, randomness) for tokens in CALIBRATION_TOKENS])
    a_word = (many - few) / (long - short)
    if not 0.2 <= a_word <= 20:
        raise UsageError(
            f"--calibrate-prompts: the endpoint counts {few} tokens for a prompt of {short} and {many} for one of {long}; "
            "that is no count to go by, leave it out"
        )
    if lexicon.has_tokenizer and abs(a_word - 1) > 0.02:
        raise UsageError(
            f"--tokenizer: it is not the endpoint's, which counts {a_word:.3f} for each of its tokens; allowed is "
            "the model's own, or none"
        )
    a_word = 1.0 if abs(a_word - 1) < 0.005 else a_word
    return Calibration(round(few - short * a_word), a_word)


def longest_tokens(spec: Spec) -> int:
    """The longest prompt that is to be made up, as far as the spec says."""
    longest = 0
    for side in ("input_tokens",):
        tokens = getattr(spec, side)
        if tokens is None:
            continue
        found = lengths.resolved(tokens, side, spec.columns or {})
        longest = found.most or (found.draw(0.999999) if isinstance(found, Distribution) else 0)
    return longest + spec.prefix_tokens + (spec.prefixes.tokens if spec.prefixes is not None else 0)


def means(spec: Spec, workers: int) -> Means:
    """What a request is on average; a data set or trace is read through for it, a packed or long one in part."""
    found = _means(spec, workers)
    return replace(found, output_tokens=found.output_tokens * speaking_share(spec))


def speaking_share(spec: Spec) -> float:
    """The share of the requests that are answered in tokens: those for embeddings are not. The APIs are known, or auto."""
    pairs = list(zip(targets.each(spec), targets.weights(spec), strict=True))
    speak = sum(weight for one, weight in pairs if one.api == AUTO or find(one.api).framing != "json")
    return speak / sum(weight for _, weight in pairs)


def _means(spec: Spec, workers: int) -> Means:
    columns = spec.columns or {}
    prefix_tokens = spec.prefix_tokens + (spec.prefixes.tokens if spec.prefixes is not None else 0)
    rings = workers * ring_bytes(workers, longest_tokens(spec)) if has_script(spec) else 0
    how = file_of(spec)
    seen = None
    if how is not None:
        tokenizer = load(spec.tokenizer) if spec.tokenizer is not None else None
        on_bad = _pass_over if spec.skip_bad_lines else raise_it
        seen = survey(how, course=course(spec), seed=spec.seed, tokenizer=tokenizer, on_bad=on_bad)
    if spec.lengths is not None:
        pairs = lengths.pairs(spec.lengths, columns)
        sums = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
        return Means(sums[0], sums[1], prefix_tokens, ring_bytes=rings)

    def mean(side: str) -> float:
        tokens: Distribution | FromFile | None = getattr(spec, side)
        if tokens is not None:
            return lengths.resolved(tokens, side, columns).mean
        assert seen is not None
        told: Lengths = getattr(seen, side)
        return told.mean if told.counts else float(USUAL_OUTPUT_TOKENS)

    found = Means(mean("input_tokens"), mean("output_tokens"), prefix_tokens, ring_bytes=rings)
    if seen is None:
        return found
    turns = seen.requests / max(seen.units, 1) if has_sessions(spec, how) else 1.0
    return replace(found, turns=turns, quotes_included=True, arrivals=seen.units)


def _pass_over(_: BadLine) -> None:
    """It is counted when its turn comes."""
