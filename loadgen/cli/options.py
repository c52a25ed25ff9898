"""Flags, spec file, environment -> Spec. Commands that make load share these, so that a flag means one thing everywhere."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from loadgen.errors import UsageError
from loadgen.spec import Spec
from loadgen.spec.file import read_spec_file
from loadgen.spec.layers import Document, Given, Layer, put, settled
from loadgen.spec.refusals import flag
from loadgen.spec.settings import SETTINGS, Setting

if TYPE_CHECKING:
    from loadgen.dialects.credentials import Credentials

# The longest in use, OAuth tokens with many claims, have a few thousand.
MOST_KEY_CHARACTERS: Final = 65536


def load_options(without: frozenset[str] = frozenset()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags that make up a Spec, less those that mean nothing to it."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS.values()):
            if setting.help and setting.name not in without:
                command = _option(setting)(command)
        words = "An endpoint of Databricks model serving; its URL comes from DATABRICKS_HOST, the key from DATABRICKS_TOKEN."
        command = click.option("--databricks-endpoint", metavar="NAME", help=words)(command)
        words = "Settings and [[stage]] tables from a TOML file, or a RUN to make again; flags win over it."
        return click.option("--spec", metavar="FILE|RUN", help=words)(command)

    return decorate


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """None is what was not given: what the file says must be told from what the flag would say by itself."""
    if setting.is_switch:
        return click.option(f"{flag(setting.name)}/--no-{flag(setting.name)[2:]}", default=None, help=setting.help)
    words = setting.help if setting.default is None else f"{setting.help}  [default: {setting.default}]"
    return click.option(flag(setting.name), metavar=setting.metavar or "TEXT", help=words, multiple=setting.many)


def spec_of(flags: dict[str, Any], defaults: dict[str, Any] | None = None) -> Spec:
    """A checked Spec from the flags of load_options, the environment and a command's own defaults (values by setting).

    UsageError names what is wrong, and where.
    """
    given: Layer = {}
    for name, setting in SETTINGS.items():
        raw = flags.get(name)
        if raw is None or raw == ():
            continue
        try:
            put(given, name, Given(setting.read(raw), flag(name)))
        except ValueError as error:
            raise UsageError(f"{flag(name)}: {error}") from None
    if flags.get("databricks_endpoint") is not None:
        if "url" in given:
            raise UsageError("--databricks-endpoint, --url: give one of the two")
        put(given, "url", databricks_url(flags["databricks_endpoint"]))
    url = os.environ.get("OPENAI_BASE_URL")
    return settled(
        given,
        Document({}) if flags["spec"] is None else read_spec_file(flags["spec"]),
        {name: Given(value, flag(name)) for name, value in (defaults or {}).items()}
        | ({"url": Given(url, "OPENAI_BASE_URL")} if url else {}),
    )


def credentials(spec: Spec) -> "Credentials":
    """What proves to the endpoint who asks: from the environment or a file, never from the command line, where every
    user of this machine could read it. UsageError where it is not where it should be. The spec's API is known.
    """
    from loadgen.dialects import find
    from loadgen.dialects.credentials import Credentials

    headers = []
    for name, variable in spec.header_env:
        if not (value := os.environ.get(variable)):
            raise UsageError(f"--header-env: the environment variable {variable} of {name} is not set")
        headers.append((name, value))
    return Credentials(_key(spec, find(spec.api).key_variables), tuple(headers))


def _key(spec: Spec, variables: tuple[str, ...]) -> str | None:
    if spec.api_key_file is not None:
        return _key_of_file(spec.api_key_file)
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
    return Given(f"{host}/serving-endpoints/{quote(endpoint.strip(), safe='')}/invocations", "DATABRICKS_HOST")
