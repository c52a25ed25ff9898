import sys

import pytest

from loadgen import tokens
from loadgen.errors import UsageError


def test_a_file_and_its_folder_are_the_same_tokenizer(tokenizer_file):
    for name in (tokenizer_file, tokenizer_file.parent):
        tokenizer = tokens.load(str(name))
        ids = tokenizer.encode("the name of the game")
        assert tokenizer.count("the name of the game") == len(ids) > 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/nowhere/tokenizer.json", "is no file here, and nothing is downloaded; allowed is a tokenizer.json"),
        ("meta-llama/Llama-3", "is no file here, and nothing is downloaded"),
        (__file__, "is no tokenizer"),
        ("tiktoken:klingon", "tiktoken has no encoding 'klingon'; allowed is gpt2"),
        ("tiktoken:cl100k_base", "does not have cl100k_base on this machine, and nothing is downloaded here"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_told_in_one_sentence(name, words, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        tokens.load(name)
    assert str(caught.value).startswith("--tokenizer: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("package", "name"), [("tokenizers", None), ("tiktoken", "tiktoken:cl100k_base")])
def test_a_package_that_is_not_there_is_named_with_how_to_get_it(package, name, monkeypatch, tokenizer_file):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs the package {package}; pip install 'loadgen\[{package}\]'"):
        tokens.load(name or str(tokenizer_file))


def test_tiktoken_counts_with_an_encoding_that_is_in_its_cache(monkeypatch):
    import tiktoken

    made = tiktoken.Encoding(
        "made",
        pat_str=r"\S+|\s+",
        mergeable_ranks={bytes([i]): i for i in range(256)} | {b"ab": 256},
        special_tokens={},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: made)
    tokenizer = tokens.load("tiktoken:cl100k_base")
    assert tokenizer.encode("abab c") == [256, 256, 32, 99]
    assert tokenizer.count("abab c") == 4
