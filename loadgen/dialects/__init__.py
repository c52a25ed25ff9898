"""The APIs that endpoints speak, one small module each; what a dialect has to say of itself is in dialect.py.

A package of the user's own adds one through the entry point group `loadgen.dialects`: see docs/dialects.md.
"""

from typing import Final

from loadgen.dialects import (
    azure,
    chat,
    completions,
    databricks,
    embeddings,
    gemini,
    llamacpp,
    messages,
    ollama,
    responses,
    sglang,
    tgi,
    triton,
)
from loadgen.dialects.dialect import Dialect
from loadgen.errors import UsageError
from loadgen.wording import Wording

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        chat.DIALECT,
        completions.DIALECT,
        responses.DIALECT,
        azure.DEPLOYMENT,
        azure.COMPLETIONS,
        azure.V1,
        messages.DIALECT,
        databricks.CHAT,
        databricks.COMPLETIONS,
        databricks.OPENAI,
        databricks.ANTHROPIC,
        databricks.EMBEDDINGS,
        sglang.DIALECT,
        tgi.DIALECT,
        triton.DIALECT,
        ollama.CHAT,
        ollama.GENERATE,
        llamacpp.DIALECT,
        gemini.DIALECT,
        gemini.VERTEX,
        embeddings.DIALECT,
    )
}

AUTO: Final = "auto"
ENTRY_POINTS: Final = "loadgen.dialects"


def find(api: str) -> Dialect:
    """The dialect of this name, of ours or of an installed package. UsageError if there is none."""
    if api in DIALECTS:
        return DIALECTS[api]
    import importlib.metadata  # which takes a while, for a few

    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if api not in points.names:
        raise UsageError(
            f"--api: {api!r} is not known; allowed is {', '.join((AUTO, *DIALECTS, *sorted(points.names)))}"
        )
    try:
        dialect = points[api].load()
    except Exception as error:  # whatever a package of somebody else's does when it is imported
        raise UsageError(
            f"--api: {points[api].value} of {api!r} cannot be loaded ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(dialect, Dialect):
        raise UsageError(f"--api: {points[api].value} of {api!r} is no loadgen.dialects.dialect.Dialect")
    return dialect


def recognised(address: str) -> Dialect:
    """The dialect of a URL's HOST/PATH: of a whole URL, else of a base that belongs to one vendor, else chat."""
    whole = [(found, dialect) for dialect in DIALECTS.values() if (found := dialect.whole_in(address)) is not None]
    if whole:  # the longest: /openai/deployments/NAME/chat/completions is a chat too, but more than that
        return min(whole, key=lambda pair: pair[0].start())[1]
    at_home = (dialect for dialect in DIALECTS.values() if dialect.is_at_home(address))
    return next(at_home, DIALECTS["chat"])


def spoken(wording: Wording) -> Dialect:
    """The dialect as the user wants it spoken. UsageError where it cannot be."""
    return find(wording.api).worded(wording)
