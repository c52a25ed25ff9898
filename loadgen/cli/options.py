"""Flags, spec file, environment -> Spec. Commands that make load share these, so that a flag means one thing everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from loadgen.errors import UsageError
from loadgen.job import environment
from loadgen.spec import Spec
from loadgen.spec.layers import Given, Layer, put
from loadgen.spec.refusals import flag
from loadgen.spec.settings import SETTINGS, SUBJECTS, Setting

out_option = click.option("--out", type=click.Path(path_type=Path), help="Run directory; default: runs/DATE-TIME.")
OWN: Final = "The command"
"""What --help calls the flags that are no settings of a load."""

no_check_option = click.option("--no-check", is_flag=True, help="Do not try the endpoint with one request first.")


class LoadCommand(click.Command):
    """A command with the flags of load_options: its --help tells of them by subject, and of its own ones last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        subject_of = {setting.name: subject for subject, settings in SUBJECTS.items() for setting in settings}
        subject_of |= dict.fromkeys(("spec", "databricks_endpoint"), next(iter(SUBJECTS)))
        records: dict[str, list[tuple[str, str]]] = {subject: [] for subject in (*SUBJECTS, OWN)}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                records[subject_of.get(param.name or "", OWN)].append(record)
        for subject, told in records.items():
            with formatter.section(subject):
                formatter.write_dl(told)


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
        put(given, "url", environment.databricks_url(flags["databricks_endpoint"]))
    return environment.spec_of(given, flags["spec"], defaults)
