"""How the user's own parts of a request are written: headers, fields and templates of the body, tools, images.

Texts as flags have them, files that are named, or the values themselves, as run.json keeps them. A ValueError is worded
for the user, who is told the field's name before it.
"""

import json
import re
from typing import Any, Final
from urllib.parse import parse_qsl

from loadgen.media import image_type

MOST_BYTES: Final = 16 * 1024 * 1024
MOST_IMAGES: Final = 1000
MOST_PIXELS: Final = 16384

# What a value of such a name is for, a command line and run.json are not.
SECRET_NAME: Final = re.compile(
    r"(^|[-_])(authorization|auth|api[-_]?key|key|secret|token|password|passwd|cookie|credentials?|signature)s?$",
    re.IGNORECASE,
)
SECRET_VALUE: Final = re.compile(
    r"^\s*(Bearer|Basic|Token)\s+\S|\b(sk|pk|hf|xai|gsk)[-_][A-Za-z0-9_-]{8,}|\bdapi[0-9a-f]{16,}|\beyJ[\w-]{10,}\."
)

# Of a URL's query besides: a shared access signature.
_SIGNED_NAME: Final = re.compile(r"^(sig|x-amz-signature|x-goog-signature)$", re.IGNORECASE)

# RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS: Final = ("content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer")


def secret_of_query(query: str) -> str | None:
    """The name of the first parameter of a URL's query that looks like a secret, None where there is none."""
    for name, value in parse_qsl(query, keep_blank_values=False):
        if SECRET_NAME.search(name) or _SIGNED_NAME.search(name) or SECRET_VALUE.search(value):
            return name
    return None


def read_headers(raw: object) -> tuple[tuple[str, str], ...]:
    """ "Name: value" each."""
    pairs = []
    for one in _listed(raw):
        if isinstance(one, list | tuple) and len(one) == 2:
            name, value = map(str, one)
        else:
            name, colon, value = str(one).partition(":")
            if not colon:
                raise ValueError(f"{_shown(one)} is no header; allowed is 'Name: value'")
        name, value = _header_name(name), value.strip()
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the value of {name} holds characters that HTTP cannot send; allowed is printable ASCII")
        if SECRET_NAME.search(name) or SECRET_VALUE.search(value):
            raise ValueError(
                f"{name} looks like a secret, and a command line can be read by everybody here; "
                f"put it into the environment and give --header-env {name}=VARIABLE"
            )
        pairs.append((name, value))
    return _once(pairs)


def read_header_variables(raw: object) -> tuple[tuple[str, str], ...]:
    """ "Name=VARIABLE" each."""
    pairs = []
    for one in _listed(raw):
        if isinstance(one, list | tuple) and len(one) == 2:
            name, variable = map(str, one)
        else:
            name, _, variable = str(one).partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable.strip()):
            # Not shown: where a value was written in the place of its variable, it is a secret.
            raise ValueError(
                "this names no environment variable; allowed is Name=VARIABLE, as in X-Gateway-Key=GATEWAY_KEY"
            )
        pairs.append((_header_name(name), variable.strip()))
    return _once(pairs)


def _header_name(name: str) -> str:
    name = name.strip()
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{_shown(name)} is no name of a header; allowed are letters, digits and -")
    if name.lower() in _OURS:
        raise ValueError(f"{name} is part of how a request is sent; it cannot be set")
    return name


def _once(pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name.lower() in seen:
            raise ValueError(f"{name} is given twice")
        seen.add(name.lower())
    return tuple(pairs)


def read_extra_body(raw: object) -> dict[str, Any]:
    """A JSON object, written out or as it is."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"this is no JSON ({_words(error)}); allowed is an object, as in '{{\"top_p\": 0.9}}'"
            ) from None
    if not isinstance(raw, dict):
        raise ValueError("this is no JSON object; allowed is for example '{\"top_p\": 0.9}'")
    return _without_secrets(raw)


def read_body_fields(raw: object) -> dict[str, Any]:
    """ "name=value" each: the value is JSON, or else a text; dots in the name lead into objects."""
    if isinstance(raw, dict):
        return _without_secrets(raw)
    fields: dict[str, Any] = {}
    for one in _listed(raw):
        name, equals, written = str(one).partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"{_shown(one)} is no field; allowed is NAME=VALUE, as in top_p=0.9")
        try:
            value = json.loads(written)
        except (ValueError, RecursionError):
            value = written
        inner = fields
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{name} is inside of a field that has a value already")
        inner[keys[-1]] = value
    return _without_secrets(fields)


def _without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    for name, value in fields.items():
        if (SECRET_NAME.search(name) and isinstance(value, str)) or (
            isinstance(value, str) and SECRET_VALUE.search(value)
        ):
            raise ValueError(f"{name} looks like a secret, and run.json would keep it; a key goes into a header")
    return fields


def read_template(raw: object) -> Any:
    """JSON of a file, or as it is. The prompt stands in it once."""
    template = _of_file(raw) if isinstance(raw, str) else raw
    if not isinstance(template, dict):
        raise ValueError('the template is no JSON object; allowed is for example {"inputs": "{prompt}"}')
    if (times := _prompts_in(template)) != 1:
        raise ValueError(f"the template has the prompt {times} times; allowed is {{prompt}} or {{messages}} once")
    return template


def _prompts_in(template: Any) -> int:
    if isinstance(template, dict):
        return sum(map(_prompts_in, template.values()))
    if isinstance(template, list):
        return sum(map(_prompts_in, template))
    if not isinstance(template, str):
        return 0
    return 1 if template == "{messages}" else template.count("{prompt}")


def read_tools(raw: object) -> tuple[dict[str, Any], ...]:
    """A JSON list of OpenAI's tools, of a file or as it is."""
    tools = _of_file(raw) if isinstance(raw, str) else raw
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list | tuple) or not all(map(_is_tool, tools)):
        raise ValueError(
            'these are no tools; allowed is a list of {"type": "function", "function": {"name": "...", "parameters": {...}}}'
        )
    return tuple(tools)


def _is_tool(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
    )


def read_images(raw: object) -> tuple[str, ...]:
    """Sizes, files and URLs; N@ before one of them repeats it."""
    images: list[str] = []
    for one in _listed(raw):
        times, at, what = str(one).strip().partition("@")
        if not at or not times.isdigit():
            times, what = "1", str(one).strip()
        if size := re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", what):
            if not all(1 <= int(side) <= MOST_PIXELS for side in size.groups()):
                raise ValueError(f"{what} is no size; allowed is from 1x1 to {MOST_PIXELS}x{MOST_PIXELS}")
        elif not re.match(r"https?://[^/\s]", what):
            _check_image_file(what)
        if not 1 <= int(times) <= MOST_IMAGES - len(images):
            raise ValueError(f"{_shown(one)} are too many or none; allowed are 1 to {MOST_IMAGES} images in a prompt")
        images += [what] * int(times)
    return tuple(images)


def _check_image_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            beginning = file.read(12)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path!r} cannot be read ({_words(error)}); allowed is WIDTHxHEIGHT, a file, or an http(s) URL"
        ) from None
    if image_type(beginning) is None:
        raise ValueError(f"{path!r} is no image that models take; allowed are PNG, JPEG, GIF and WebP")


def _of_file(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            written = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be read ({_words(error)}); allowed is a file of JSON") from None
    if len(written) > MOST_BYTES:
        raise ValueError(f"{path!r} is too large; allowed are {MOST_BYTES // 1024 // 1024} MiB")
    try:
        return json.loads(written.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is no JSON ({_words(error)})") from None


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()))


def _listed(raw: object) -> list[Any]:
    return list(raw) if isinstance(raw, list | tuple) else [raw]


def _shown(raw: object) -> str:
    words = repr(str(raw))
    return words if len(words) <= 80 else f"{words[:80]}..."
