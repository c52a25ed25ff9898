"""Tokenizers by name: a Hugging Face tokenizer.json (or the folder of one), or an encoding of tiktoken.

Nothing is downloaded: a file is on this machine, and tiktoken has its encodings in its cache (TIKTOKEN_CACHE_DIR).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from loadgen.errors import UsageError

TIKTOKEN: Final = "tiktoken:"

_ALLOWED: Final = "allowed is a tokenizer.json, a folder that holds one, or tiktoken:ENCODING"


class Tokenizer(Protocol):
    """Text to ids and back; special tokens are neither added nor recognised."""

    def encode(self, text: str) -> list[int]: ...

    def count(self, text: str) -> int: ...


class _HuggingFace:
    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # encode_batch lets go of the interpreter's lock, encode does not.
        self._encode: Callable[..., Any] = tokenizer.encode_batch

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encode([text], add_special_tokens=False)[0].ids
        return ids

    def count(self, text: str) -> int:
        return len(self._encode([text], add_special_tokens=False)[0])


class _Tiktoken:
    def __init__(self, encoding: Any) -> None:
        self._encode = encoding.encode_ordinary

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text)
        return ids

    def count(self, text: str) -> int:
        return len(self._encode(text))


def load(name: str, field: str = "--tokenizer") -> Tokenizer:
    """The tokenizer of that name or path. UsageError, by `field`, if it or its package is not there."""
    if name.startswith(TIKTOKEN):
        return _tiktoken(name.removeprefix(TIKTOKEN), field)
    path = Path(name)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.is_file():
        raise UsageError(f"{field}: {name!r} is no file here, and nothing is downloaded; {_ALLOWED}")
    try:
        import tokenizers
    except ImportError:
        raise UsageError(f"{field}: {name!r} needs the package tokenizers; pip install 'loadgen[tokenizers]'") from None
    try:
        return _HuggingFace(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:  # the package raises plain ones
        words = " ".join(str(error).split())[:200]
        raise UsageError(f"{field}: {str(path)!r} is no tokenizer ({words}); {_ALLOWED}") from None


def _tiktoken(encoding: str, field: str) -> Tokenizer:
    try:
        import tiktoken
    except ImportError:
        raise UsageError(
            f"{field}: {TIKTOKEN}{encoding} needs the package tiktoken; pip install 'loadgen[tiktoken]'"
        ) from None
    known = tiktoken.list_encoding_names()
    if encoding not in known:
        raise UsageError(f"{field}: tiktoken has no encoding {encoding!r}; allowed is {', '.join(known)}")
    try:
        with _no_downloads():
            return _Tiktoken(tiktoken.get_encoding(encoding))
    except Exception:  # whatever a cache that is none raises
        raise UsageError(
            f"{field}: tiktoken does not have {encoding} on this machine, and nothing is downloaded here; "
            "put it into its cache (TIKTOKEN_CACHE_DIR) first"
        ) from None


@contextmanager
def _no_downloads() -> Iterator[None]:
    """tiktoken fetches what its cache does not have. A tool that measures an endpoint must not call another one."""
    from tiktoken import load

    def refuse(path: str) -> bytes:
        raise OSError(f"{path} is not here")

    read_file = load.read_file
    load.read_file = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        load.read_file = read_file
