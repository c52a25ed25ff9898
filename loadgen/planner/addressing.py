"""Where the requests of each target go: the API that its URL tells, and the connections, paths and heads of its requests."""

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qs, unquote, urlsplit

from loadgen import __version__
from loadgen.dialects import AUTO, find, recognised, spoken
from loadgen.dialects.answer import Ask
from loadgen.dialects.credentials import NOBODY, Credentials, header_fields
from loadgen.errors import UsageError
from loadgen.plan import Endpoint, Route
from loadgen.planner.bodies import wording
from loadgen.spec import Spec, targets


def resolved(spec: Spec) -> Spec:
    """The spec with the API, and where the URL names it the model, that the URL of each target tells.

    UsageError if there is no such API, or if it does not go with the URL, or not with what is asked of it.
    """
    for number, one in enumerate(targets.each(spec)):
        try:
            found = [_resolved(replace(one, url=url)) for url in targets.urls(spec, number)]
        except UsageError as error:
            raise UsageError(f"{error}{_of_target(spec, number)}") from None
        first, *others = found
        for other in others:
            if (other.api, other.model) != (first.api, first.model):
                raise UsageError(
                    f"--url: {first.url} is of {_told(first)}, {other.url} of {_told(other)}, and requests are balanced "
                    f"over what is the same everywhere{_of_target(spec, number)}; give two --target instead"
                )
        spec = targets.with_target(spec, number, first)
    return spec


def _told(spec: Spec) -> str:
    return f"the {spec.api} API" + (f" with the model {spec.model}" if spec.model else "")


def _of_target(spec: Spec, number: int) -> str:
    return f" (target {targets.names(spec)[number]})" if len(spec.targets) > 1 else ""


def _resolved(spec: Spec) -> Spec:
    parts = urlsplit(spec.url)
    address = f"{parts.hostname}{parts.path.rstrip('/')}"
    if spec.api == AUTO:
        dialect = recognised(address)
    else:
        dialect = find(spec.api)
        other = recognised(address)
        if dialect.whole_in(address) is None and other.whole_in(address) is not None:
            raise UsageError(
                f"--api: {spec.api} does not go with a --url that ends as that of {other.name} does; give --api {other.name}"
            )
    spec = replace(spec, api=dialect.name)
    found = dialect.whole_in(address)
    if spec.model is None and found is not None and "model" in found.groupdict():
        spec = replace(spec, model=unquote(found["model"]))
    speaker = spoken(wording(spec))
    if dialect.framing == "json":
        for flag, given in (("--turns", spec.turns), ("--cancel", spec.cancel)):
            if given is not None:
                raise UsageError(f"{flag}: the {dialect.name} API answers in one piece, without a text; leave it out")
    # What it cannot say is refused here, and not by the first request.
    images = tuple(image if image.startswith("http") else "data:image/png;base64," for image in spec.image)
    speaker.body(Ask(spec.model or "", "", 1, spec.ignore_eos, images=images))
    return spec


def endpoint(spec: Spec) -> Endpoint:
    """Where the requests of a resolved spec of one target go.

    `--url` may be a base (http://h:8000, https://h/v1) or the whole path.
    """
    parts = urlsplit(spec.url)
    tls = parts.scheme == "https"
    assert parts.hostname is not None
    base = parts.path.rstrip("/")
    dialect = find(spec.api)
    path = base if dialect.whole_in(f"{parts.hostname}{base}") is not None else dialect.path(base)
    if spec.model is not None:
        path = dialect.path_to(path, spec.model)
    query = parts.query
    if dialect.query and dialect.query.partition("=")[0] not in parse_qs(query, keep_blank_values=True):
        query = f"{query}&{dialect.query}" if query else dialect.query
    return Endpoint(
        host=parts.hostname,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        path=f"{path}?{query}" if query else path,
        tls_ca=spec.tls_ca,
        insecure=spec.insecure,
        proxy=spec.proxy,
    )


def endpoints(spec: Spec) -> list[tuple[Endpoint, ...]]:
    """Where the requests of each target go, as of `endpoint`."""
    return [
        tuple(endpoint(replace(one, url=url)) for url in targets.urls(spec, number))
        for number, one in enumerate(targets.each(spec))
    ]


def endpoint_urls(spec: Spec) -> list[str]:
    """All URLs of a run, each once."""
    return list(dict.fromkeys(url for number in range(len(spec.targets) or 1) for url in targets.urls(spec, number)))


def head(spec: Spec, where: Endpoint, credentials: Credentials = NOBODY) -> bytes:
    """Request line and headers, less Content-Length and the blank line. UsageError if they cannot be sent."""
    default_port = 443 if where.tls else 80
    host = f"[{where.host}]" if ":" in where.host else where.host
    fields = header_fields(find(spec.api), credentials, spec.header)
    own = {name.lower() for name, _ in fields}
    first = [
        ("Host", host if where.port == default_port else f"{host}:{where.port}"),
        ("User-Agent", f"loadgen/{__version__}"),
    ]
    fields = [*(pair for pair in first if pair[0].lower() not in own), *fields]
    lines = [f"POST {where.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    # A line break in the key (a file read whole, a .env of Windows) would begin a header of its own.
    if not all(line.isascii() and line.isprintable() for line in lines):
        variables = ", ".join(find(spec.api).key_variables)
        raise UsageError(
            f"{variables}, --url: the key, a header or the URL holds characters that HTTP cannot send; "
            "allowed is printable ASCII"
        )
    return "\r\n".join(lines).encode("ascii")


def ways(spec: Spec, credentials: Sequence[Credentials]) -> tuple[tuple[Endpoint, ...], tuple[Route, ...]]:
    """(what is connected to, how each target is asked at each of its URLs). UsageError where a header cannot be sent."""
    urls, origins = endpoint_urls(spec), list[Endpoint]()
    routes = []
    for number, (one, its_endpoints) in enumerate(zip(targets.each(spec), endpoints(spec), strict=True)):
        for url, where in zip(targets.urls(spec, number), its_endpoints, strict=True):
            origin = replace(where, path="")
            if origin not in origins:
                origins.append(origin)
            called = f"{targets.names(spec)[number]} at {url}" if spec.targets else ""
            head_bytes = head(one, where, credentials[number])
            routes.append(Route(number, urls.index(url), origins.index(origin), head_bytes, called))
    return tuple(origins), tuple(routes)
