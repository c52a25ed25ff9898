"""What the environment says of an endpoint: its URL and its key. Nobody else looks into it."""

import os
from collections.abc import Mapping

from loadgen.spec import Spec
from loadgen.spec.file import read_spec_file
from loadgen.spec.layers import Document, Given, Layer, settled
from loadgen.spec.refusals import flag


def spec_of(given: Layer, file: str | None, defaults: Mapping[str, object] | None = None) -> Spec:
    """A checked Spec from settings over a spec file, the environment and a command's own defaults (values by setting).

    UsageError names what is wrong, and where.
    """
    url = os.environ.get("OPENAI_BASE_URL")
    return settled(
        given,
        Document({}) if file is None else read_spec_file(file),
        {name: Given(value, flag(name)) for name, value in (defaults or {}).items()}
        | ({"url": Given(url, "OPENAI_BASE_URL")} if url else {}),
    )


def api_key() -> str | None:
    """The key for the endpoint."""
    return os.environ.get("OPENAI_API_KEY") or None
