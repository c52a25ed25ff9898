"""What the environment says: an endpoint's URL and key, where the cache is. Nobody else looks into it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadgen.errors import UsageError
from loadgen.spec import Spec, targets
from loadgen.spec.file import read_spec_file
from loadgen.spec.layers import Document, Given, Layer, settled
from loadgen.spec.refusals import flag

if TYPE_CHECKING:
    from loadgen.dialects.credentials import Credentials

# The longest in use, OAuth tokens with many claims, have a few thousand.
MOST_KEY_CHARACTERS: Final = 65536


def spec_of(given: Layer, file: str | None, defaults: Mapping[str, object] | None = None) -> Spec:
    """A checked Spec from settings over a spec file, the environment and a command's own defaults (values by setting).

    UsageError names what is wrong, and where.
    """
    url = os.environ.get("OPENAI_BASE_URL")
    return settled(
        given,
        Document({}) if file is None else read_spec_file(file),
        {name: Given(value, flag(name)) for name, value in (defaults or {}).items()}
        | ({"url": Given((url,), "OPENAI_BASE_URL")} if url else {}),
    )


def credentials(spec: Spec, key: str | None = None) -> "list[Credentials]":
    """What proves to the endpoint of each target who asks: a `key` from Python, else from the environment or a file; never
    from the command line, where every user of this machine could read it. UsageError where it is not where it should be.
    The APIs are known."""
    of_files: dict[str, str] = {}  # standard input can be read but once
    found = []
    for one in targets.each(spec):
        has_its_own = bool(spec.targets) and (one.api_key_env is not None or one.api_key_file is not None)
        found.append(_credentials(one, None if has_its_own else key, of_files))
    return found


def _credentials(spec: Spec, key: str | None, of_files: dict[str, str]) -> "Credentials":
    from loadgen.dialects import find
    from loadgen.dialects.credentials import Credentials

    headers = []
    for name, variable in spec.header_env:
        if not (value := os.environ.get(variable)):
            raise UsageError(f"--header-env: the environment variable {variable} of {name} is not set")
        headers.append((name, value))
    return Credentials(key or _key(spec, find(spec.api).key_variables, of_files), tuple(headers))


def _key(spec: Spec, variables: tuple[str, ...], of_files: dict[str, str]) -> str | None:
    if (file := spec.api_key_file) is not None:
        if file not in of_files:
            of_files[file] = _key_of_file(file)
        return of_files[file]
    if spec.api_key_env is not None:
        if not (key := os.environ.get(spec.api_key_env)):
            raise UsageError(f"--api-key-env: the environment variable {spec.api_key_env} is not set")
        return key
    return next((key for variable in variables if (key := os.environ.get(variable))), None)


def _key_of_file(path: str) -> str:
    try:
        if path == "-":
            key = sys.stdin.read(MOST_KEY_CHARACTERS + 1)
        else:
            with open(path, encoding="utf-8") as file:
                key = file.read(MOST_KEY_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(
            f"--api-key-file: {path!r} cannot be read ({words}); allowed is a file that holds the key alone"
        ) from None
    key = key.strip()
    if not key or len(key) > MOST_KEY_CHARACTERS or len(key.split()) != 1:
        raise UsageError(f"--api-key-file: {path!r} holds no key; allowed is a file that holds the key alone")
    return key


def cache_folder() -> Path | None:
    """Where this user's programs keep what can be found out again ($XDG_CACHE_HOME, or ~/.cache); None without a home."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(told):
        return Path(told) / "loadgen"
    try:
        return Path.home() / ".cache" / "loadgen"
    except RuntimeError:
        return None


def databricks_url(endpoint: str) -> Given:
    """Where an endpoint of Databricks model serving is asked. UsageError if the workspace is not known."""
    from urllib.parse import quote

    host = (os.environ.get("DATABRICKS_HOST") or "").strip().rstrip("/")
    if not host:
        raise UsageError(
            "--databricks-endpoint: DATABRICKS_HOST is not set; allowed is https://WORKSPACE.cloud.databricks.com"
        )
    if not endpoint.strip():
        raise UsageError("--databricks-endpoint: the name is empty; allowed is the name of a serving endpoint")
    if "://" not in host:
        host = f"https://{host}"
    return Given((f"{host}/serving-endpoints/{quote(endpoint.strip(), safe='')}/invocations",), "DATABRICKS_HOST")
