"""A tokenizer of the tests' own: nothing is downloaded."""

import random
from pathlib import Path

from loadgen.workload.prompts import NONCE_WORDS, WORDS


def made_tokenizer(path: Path, vocabulary: int) -> Path:
    """A tokenizer with so many tokens; 256 are single bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    randomness = random.Random(1)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [" ".join(randomness.choices(WORDS + NONCE_WORDS, k=200)) for _ in range(100)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.save(str(path))
    return path
