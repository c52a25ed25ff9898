"""The APIs that endpoints speak, one small module each: how to ask, and how to read an event.

A dialect module has
    PATH          the route below the base URL
    body(ask)     an Ask -> the JSON body as a dict
    read(payload, answer)
                  one event's data -> the EventKind it carried, or NOTHING; what else it says goes into the Answer
    text(payload) what an event of kind CONTENT said, for the next turn of a session to quote
    TEXT_MARK     what stands before the text of a content event in its JSON; see worker.decoding.Decoder._frame_of
"""

from types import ModuleType
from typing import Final

from loadgen.dialects import chat, completions

DIALECTS: Final[dict[str, ModuleType]] = {"chat": chat, "completions": completions}
