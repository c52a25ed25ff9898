"""The flags of a run on several machines, for every command that makes load: --ray, --nodes, --collect, --on-node-loss."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from loadgen.errors import RunError, UsageError

if TYPE_CHECKING:
    from loadgen.local_run import Place

TOKEN_BYTES: Final = 32


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """They arrive as ray, nodes, collect and on_node_loss; see `placed`."""
    options = (
        click.option(
            "--ray",
            metavar="auto|ADDRESS",
            help="Make the load on the nodes of a Ray cluster: auto where this is one of them, or HOST:PORT of its head.",
        ),
        click.option("--nodes", type=click.IntRange(min=1), help="How many of them; with --ray  [default: all]."),
        click.option(
            "--collect",
            metavar="driver|nodes|URI",
            help="Where the captures of the nodes go: to this machine, nowhere, or into an object store (s3://..., gs://...);"
            " with --ray  [default: driver].",
        ),
        click.option(
            "--on-node-loss",
            type=click.Choice(["stop", "continue"]),
            help="What the others do when a node is lost; with --ray  [default: stop].",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def placed(flags: dict[str, Any]) -> "Iterator[Place | None]":
    """Takes what cluster_options added out of the flags, and has the nodes ready meanwhile; None: this machine.

    UsageError where a flag has no meaning, or the cluster is not as it is asked for.
    """
    address, nodes, collect, on_node_loss = (flags.pop(name) for name in ("ray", "nodes", "collect", "on_node_loss"))
    if address is None:
        for name, given in (("--nodes", nodes), ("--collect", collect), ("--on-node-loss", on_node_loss)):
            if given is not None:
                raise UsageError(f"{name}: it is about the nodes of a cluster; give --ray, too")
        yield None
        return
    import secrets

    from loadgen.cluster import fleet, gather
    from loadgen.cluster.engine import RayEngine

    collect = collect or fleet.DRIVER
    if collect not in (fleet.DRIVER, fleet.NODES):
        _check_no_secret(collect)
        try:
            gather.check_store(collect)
        except RunError as error:
            raise UsageError(
                f"--collect: {collect!r} is no store ({error}); allowed is driver, nodes or a URI as s3://BUCKET/FOLDER"
            ) from None
    with ExitStack() as stack:
        engine = stack.enter_context(RayEngine(address, nodes))
        yield stack.enter_context(
            fleet.Fleet(
                engine,
                secrets.token_bytes(TOKEN_BYTES),
                on_node_loss=on_node_loss or fleet.ON_NODE_LOSS[0],
                collect=collect,
            )
        )


def _check_no_secret(uri: str) -> None:
    """UsageError, without quoting it, where a URI of a store holds a key: run.json names the store."""
    from urllib.parse import urlsplit

    from loadgen.spec.body import secret_of_query

    try:
        parts = urlsplit(uri)
        found = "a password" if parts.password else secret_of_query(parts.query)
    except ValueError:  # no URI at all, which is told by who reads it
        return
    if found:
        raise UsageError(
            f"--collect: the URI holds {found}, and run.json would keep it; allowed is one without: "
            "every node has the credentials of its own environment (AWS_ACCESS_KEY_ID, a role)"
        )
