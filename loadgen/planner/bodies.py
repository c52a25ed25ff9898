"""What the requests of each target say: how they are worded, and the bodies that are made before the run."""

import random
from typing import Final

import orjson

from loadgen import recipes
from loadgen.dialects import spoken
from loadgen.dialects.answer import Ask
from loadgen.dialects.dialect import merged
from loadgen.distribution import Distribution
from loadgen.nonces import Nonces
from loadgen.plan import PromptPool, Talk
from loadgen.preparation import Speaking
from loadgen.spec import Spec, targets
from loadgen.tokens import load
from loadgen.wording import Wording
from loadgen.workload.images import url_of
from loadgen.workload.prompts import Lexicon
from loadgen.workload.script import Calibration

# Enough bodies that no two streams in flight have to share one, few enough to be made and held at once.
MAX_BODIES: Final = 256
MAX_POOL_BYTES: Final = 32 * 1024 * 1024

NONCE_BITS: Final = 42
"""2^32 requests in each of 1,024 stages; of 64 words, 7 of them."""

MAX_ANSWERS: Final = 64
"""Made-up answers, for histories that do not quote the model's."""

# A word that stands in for the nonce while a body is made; JSON leaves it as it is.
_MARK: Final = "@nonce@"


def wording(spec: Spec) -> Wording:
    """How requests are worded. The spec's API is known (resolved)."""
    return Wording(
        api=spec.api,
        usage=spec.usage,
        token_ids=spec.return_token_ids,
        max_tokens_field=spec.max_tokens_field,
        tools=spec.tools,
        inputs=spec.inputs,
        template=spec.body_template,
        extra=merged(spec.extra_body, spec.body_field),
    )


def wordings(spec: Spec) -> list[Wording]:
    """That of each target."""
    return [wording(one) for one in targets.each(spec)]


def speaking(spec: Spec) -> list[Speaking]:
    """How the preparer says to each target what is asked."""
    return [Speaking(one.model or "", one.ignore_eos, wording(one)) for one in targets.each(spec)]


def images(spec: Spec, randomness: random.Random | None = None) -> tuple[str, ...]:
    """The images of one prompt, as URLs."""
    randomness = randomness or random.Random(spec.seed)
    return tuple(url_of(image, randomness) for image in spec.image)


def pool(
    spec: Spec,
    model: str,
    calibration: Calibration = Calibration(),  # noqa: B008 - a value
    most_bytes: int = MAX_POOL_BYTES,
) -> PromptPool:
    """The requests, seeded: the same spec and seed give the same bytes. Without bodies where there is a script."""
    if recipes.has_script(spec):
        return PromptPool((), (b"",), 0, spec.seed)
    assert isinstance(spec.input_tokens, Distribution)
    assert isinstance(spec.output_tokens, Distribution)
    input_tokens, output_tokens = int(spec.input_tokens.a), int(spec.output_tokens.a)
    dialect = spoken(wording(spec))
    lexicon = Lexicon(load(spec.tokenizer) if spec.tokenizer is not None else None)
    randomness = random.Random(spec.seed)
    content = calibration.content(input_tokens)
    vocabulary = tuple(f"{word} ".encode() for word in lexicon.nonce_words)
    bits = (len(vocabulary) - 1).bit_length()
    nonce_words = lexicon.nonce_that_fits(content, -(-NONCE_BITS // max(bits, 1)))
    opening = Nonces(vocabulary, nonce_words, spec.seed).nonce(0).decode()
    system = lexicon.text(spec.prefix_tokens, randomness)
    bodies: list[tuple[bytes, bytes]] = []
    texts: list[str] = []
    shown: list[tuple[str, ...]] = []
    n_bytes = 0
    while len(bodies) < MAX_BODIES and n_bytes < most_bytes:
        text = lexicon.text(content, randomness, opening)
        shown.append(images(spec, randomness))
        ask = Ask(model, _MARK + text, output_tokens, spec.ignore_eos, system, images=shown[-1])
        before, after = orjson.dumps(dialect.body(ask)).split(_MARK.encode(), 1)
        bodies.append((before, after))
        texts.append(text)
        n_bytes += len(before) + len(after)
    talk = None
    if spec.turns is not None:
        recorded = range(0 if spec.history == "real" else MAX_ANSWERS)
        answers = tuple(lexicon.text(output_tokens, randomness) for _ in recorded)
        talk = Talk(
            model, system, output_tokens, spec.ignore_eos, tuple(texts), answers, tuple(shown) if spec.image else ()
        )
    return PromptPool(
        bodies=tuple(bodies),
        vocabulary=vocabulary,
        nonce_words=nonce_words,
        seed=spec.seed,
        talk=talk,
        wanted_input_tokens=input_tokens + spec.prefix_tokens,
        wanted_output_tokens=output_tokens,
    )
