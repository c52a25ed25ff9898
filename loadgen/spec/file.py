"""The spec file: run.toml, or the run.json of a run, which makes that run again.

Keys are the names of the flags (`ramp_up` or `ramp-up`); what flags cannot say are `[[stage]]` tables, each with settings of
its own over those of the whole file. A duration is text with a unit, or a number under a key that ends in `_s`.
"""

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from loadgen.errors import UsageError
from loadgen.spec.layers import LOADS, Document, Given, Layer, put
from loadgen.spec.settings import SETTINGS

# A list of a thousand stages has 100 KB; more than this is not a spec but the wrong file.
MOST_BYTES: Final = 16 * 1024 * 1024

_READERS: Final = {
    key: (setting, read)
    for setting in SETTINGS.values()
    for key, read in (
        (setting.name, setting.read),
        *([(setting.field, setting.read_field or setting.read)] if setting.field else ()),
    )
}

_ALLOWED: Final = "allowed is a TOML file or a run directory"

# Not just any token: output_token is a slip of the pen.
_SECRET: Final = re.compile(
    r"(^|_)(api_?key|key|secrets?|passw(or)?d|auth\w*|bearer|headers?|credentials?|(api|access|auth)_token)$|^token$"
)


def read_spec_file(path: str) -> Document:
    """What a file, or the run.json of a run directory, asks for. UsageError names file and field, or file and line."""
    file = Path(path)
    try:
        if file.is_dir():
            file /= "run.json"
        with file.open("rb") as opened:
            written = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--spec: {str(file)!r} cannot be read ({words}); {_ALLOWED}") from None
    if len(written) > MOST_BYTES:
        raise UsageError(f"--spec: {str(file)!r} is no spec, it is too large; {_ALLOWED}")
    place = f"{file}: "
    is_json = file.suffix == ".json"
    try:
        # Some editors begin a file with a byte order mark; and without a last line break tomllib would not say which line
        # is wrong, if it is the last one.
        values = (json.loads if is_json else tomllib.loads)(written.decode("utf-8-sig") + "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}the byte {error.start} is no UTF-8; allowed is UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UsageError(f"{place}this is no {'JSON' if is_json else 'TOML'}: {words}") from None
    return _of_run(values, place) if is_json else _document(values, place)


def layer_of(values: dict[str, Any]) -> Layer:
    """Settings of a run by their keys, as a file would have them. UsageError names the key."""
    return _layer(values, "", in_stage=False)


def _of_run(values: Any, place: str) -> Document:
    if not isinstance(values, dict) or not isinstance(values.get("spec"), dict):
        raise UsageError(f"{place}there is no spec in it; allowed is the run.json of a run, or a TOML file")
    document = _document(values["spec"], place)
    # run.json knows no settings over all stages. What its stages agree on holds for a load from the flags, too.
    first, *others = document.stages or ({},)
    agreed = {
        name: given
        for name, given in first.items()
        if name not in LOADS | {"name"} and all(name in other and other[name].value == given.value for other in others)
    }
    return Document(agreed | document.run, document.stages)


def _document(values: dict[str, Any], place: str) -> Document:
    values = dict(values)
    if "stage" in values and "stages" in values:
        raise UsageError(f"{place}stages: there are stages under another name; write [[stage]] above each")
    key = "stages" if "stages" in values else "stage"
    tables = values.pop(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{place}{key}: stages are tables; write [[stage]] above each")
    return Document(
        _layer(values, place, in_stage=False),
        tuple(_layer(table, f"{place}stage {number}: ", in_stage=True) for number, table in enumerate(tables, 1)),
    )


def _layer(table: dict[str, Any], place: str, *, in_stage: bool) -> Layer:
    layer: Layer = {}
    read_as: dict[str, str] = {}
    for key, raw in table.items():
        if raw is None:  # run.json writes what was not given as null
            continue
        called = f"{place}{key if key.isprintable() else repr(key)}"
        if (found := _READERS.get(key.replace("-", "_"))) is None:
            raise _unknown(key, called, in_stage)
        setting, read = found
        if in_stage and not setting.of_stage:
            raise UsageError(f"{called}: this is for the whole run; write it above the first [[stage]]")
        if not in_stage and setting.name == "name":
            raise UsageError(f"{called}: stages have names, a run has none; write it into a [[stage]]")
        if setting.name in read_as:
            raise UsageError(f"{called}: this is given twice, as {read_as[setting.name]} too")
        read_as[setting.name] = key
        try:
            value = read(raw)
        except ValueError as error:
            raise UsageError(f"{called}: {error}") from None
        put(layer, setting.name, Given(value, key, place))
    return layer


def _unknown(key: str, called: str, in_stage: bool) -> UsageError:
    name = key.replace("-", "_").lower()
    if _SECRET.search(name):
        return UsageError(f"{called}: a spec file holds no keys and no headers; the key comes from OPENAI_API_KEY")
    known = [setting.name for setting in SETTINGS.values() if setting.of_stage or not in_stage]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"allowed is {', '.join(known)}"
    return UsageError(f"{called}: there is no such setting; {hint}")
