"""The spec of a command line, as `loadgen run` would read it."""

import click
from click.testing import CliRunner

from loadgen.cli.options import load_options, spec_of
from loadgen.spec import Spec

URL = "http://127.0.0.1:8000"


@click.command()
@load_options()
@click.pass_context
def command(context, **flags):
    context.obj.append(spec_of(flags))


def asked(*arguments: str, **variables: str) -> Spec:
    """The spec of a command line."""
    specs = []
    unset = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    result = CliRunner().invoke(command, list(arguments), env=unset | variables, standalone_mode=False, obj=specs)
    if result.exception is not None:
        raise result.exception
    return specs[0]
