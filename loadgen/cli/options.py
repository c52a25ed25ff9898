"""Flags, spec file, environment -> Spec. Commands that make load share these, so that a flag means one thing everywhere."""

from collections.abc import Callable
from typing import Any

import click

from loadgen.errors import UsageError
from loadgen.job import environment
from loadgen.spec import Spec
from loadgen.spec.layers import Given, Layer, put
from loadgen.spec.refusals import flag
from loadgen.spec.settings import SETTINGS, Setting


def load_options(without: frozenset[str] = frozenset()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags that make up a Spec, less those that mean nothing to it."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS.values()):
            if setting.help and setting.name not in without:
                command = _option(setting)(command)
        words = "Settings and [[stage]] tables from a TOML file, or a RUN to make again; flags win over it."
        return click.option("--spec", metavar="FILE|RUN", help=words)(command)

    return decorate


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """None is what was not given: what the file says must be told from what the flag would say by itself."""
    if setting.is_switch:
        return click.option(f"{flag(setting.name)}/--no-{flag(setting.name)[2:]}", default=None, help=setting.help)
    words = setting.help if setting.default is None else f"{setting.help}  [default: {setting.default}]"
    return click.option(flag(setting.name), metavar=setting.metavar or "TEXT", help=words)


def spec_of(flags: dict[str, Any], defaults: dict[str, Any] | None = None) -> Spec:
    """A checked Spec from the flags of load_options, the environment and a command's own defaults (values by setting).

    UsageError names what is wrong, and where.
    """
    given: Layer = {}
    for name, setting in SETTINGS.items():
        if (raw := flags.get(name)) is None:
            continue
        try:
            put(given, name, Given(setting.read(raw), flag(name)))
        except ValueError as error:
            raise UsageError(f"{flag(name)}: {error}") from None
    return environment.spec_of(given, flags["spec"], defaults)


def api_key() -> str | None:
    """The key for the endpoint: from the environment, never from the command line, where every user could read it."""
    return environment.api_key()
