"""Events that say the same but for their text: known by the bytes around it, not parsed.

Nearly all events of a response differ in their text alone, and in a few values that say nothing of what the event is: a
sequence number, a time, the count of tokens so far. Such an event is literals with holes between them. One with the
same literals and a plain value in each hole says what the first one said, so it need not be parsed: comparing takes a
tenth of the time. It is certain where the first event, read with other values in its holes, says the same, and read
without a text, carries nothing: `Frame.of` tries that.

Where each event repeats the text before it (`cumulative`), its text has to begin with that of the event before, and the
check looks at what is new alone: the cost of an event is then that of comparing memory.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, Answer
from loadgen.dialects.dialect import MALFORMED, Dialect

_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_NUMBERS: Final = re.compile(rb"%b(?:;%b)*" % (_NUMBER, _NUMBER))
_WHOLE: Final = rb"(?:0|[1-9][0-9]*)"
_LIST: Final = rb"%b(?:, ?%b)*" % (_WHOLE, _WHOLE)
_LISTS: Final = re.compile(rb"%b(?:;%b)*" % (_LIST, _LIST))
_REST: Final = rb"(?:, ?%b)*" % _WHOLE
_REST_OF_LISTS: Final = re.compile(rb"%b(?:;%b)*" % (_REST, _REST))
_COUNTS: Final = re.compile(rb"(?:0|[1-9][0-9]{0,8})(?:;(?:0|[1-9][0-9]{0,8}))*")
_IN_FORM: Final = {"number": _NUMBERS, "so_far": _COUNTS, "list": _LISTS}

_ESCAPE: Final = re.compile(rb'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})')
_CONTROLS: Final = bytes(range(32))

# Values for the trial of a frame: none of them is what the event had, most likely, and none is a default.
_TRIAL: Final = {"text": b"x", "string": b"y", "number": b"7", "so_far": b"7", "list": b"7"}


class Alike(NamedTuple):
    """What comparing gave."""

    unlike: list[int]
    """Which events have to be parsed; ascending."""
    texts: list[bytes]
    """The JSON of each event's text; anything for those that are unlike, or neither the last nor before one that is."""
    so_far: npt.NDArray[np.int64] | None
    """Tokens up to each event, where the events say it; anything for those that are unlike."""
    looked_at: int
    """How many events, from the first on, this tells of."""


class Frame(NamedTuple):
    """A kind of event: literals[0], a hole, literals[1], a hole, ..., literals[-1]."""

    literals: tuple[bytes, ...]
    holes: tuple[str, ...]
    """Of the names in _TRIAL; one of them is "text"."""
    kind: int
    cumulative: bool
    added: int
    """What the server counts elsewhere in the event, beside the count in the hole."""
    totals: bool
    """Whether the count so far is also the response's total by now."""

    @classmethod
    def of(
        cls, payload: bytes, kind: int, answer: Answer, dialect: Dialect, marks: "Marks"
    ) -> "tuple[Frame, bytes] | None":
        """(the frame of an event, the JSON of its text), if both can be told for certain. `answer` is behind that event."""
        if kind not in (CONTENT, REASONING) or marks.text is None:
            return None
        varying = [] if marks.varying is None else [
            (found.start(found.lastgroup), found.end(found.lastgroup), found.lastgroup)
            for found in marks.varying.finditer(payload)
            if found.lastgroup is not None
        ]  # fmt: skip
        for found in marks.text.finditer(payload):
            start = found.end()
            if (stop := _end_of_text(payload, start)) == start:
                continue
            spans = sorted([*varying, (start, stop, "text")])
            if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
                continue  # what looked like a key stands inside of a text
            borders = [0, *(place for span in spans for place in span[:2]), len(payload)]
            literals = tuple(payload[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True))
            frame = cls(literals, tuple(span[2] for span in spans), kind, answer.is_cumulative, 0, False)
            if (tried := frame.tried(dialect.read)) is not None:
                return tried, payload[start:stop]
        return None

    def tried(self, read: Callable[[bytes, Answer], int]) -> "Frame | None":
        """The frame, if an event with other values in its holes says the same and one without a text nothing."""
        answer = Answer()
        values = [_TRIAL[hole] for hole in self.holes]
        empty = [b"" if hole == "text" else value for hole, value in zip(self.holes, values, strict=True)]
        try:
            with_text = read(self.filled(values), answer)
            without = read(self.filled(empty), Answer())
        except MALFORMED:
            return None
        if with_text != self.kind or without != NOTHING:
            return None
        if answer.end_seen or answer.finish_reason is not None or answer.error_words is not None:
            return None  # once is enough
        so_far = answer.cumulative_tokens
        if "so_far" not in self.holes:
            return self if so_far is None else None
        if so_far is None or so_far < 7:
            return None
        return self._replace(added=so_far - 7, totals=answer.output_tokens == so_far)

    def filled(self, values: list[bytes]) -> bytes:
        """The event with these values in its holes."""
        pairs = zip(self.literals, [*values, b""], strict=True)
        return b"".join(piece for pair in pairs for piece in pair)

    def compare(self, payloads: list[bytes], text_before: bytes | None) -> Alike:
        """Which payloads are unlike this. `text_before`: the JSON text of the event before, None where it is not known."""
        first, *middles, last = self.literals
        if not middles and not self.cumulative:
            return _compare_ends(payloads, first, last)
        if self.cumulative and (run := self._run(payloads, text_before)) is not None:
            return run
        inner = [payload.removeprefix(first).removesuffix(last) for payload in payloads]
        inner_bytes = np.fromiter(map(len, inner), np.int64, len(inner))
        all_bytes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        like = all_bytes - inner_bytes == len(first) + len(last)
        texts, so_far = inner, None
        for hole, middle in zip(self.holes, (*middles, None), strict=True):
            if middle is None:
                values = inner
            else:
                parts = [rest.partition(middle) for rest in inner]
                like &= np.fromiter([len(part[1]) for part in parts], np.int64, len(parts)) > 0
                values, inner = [part[0] for part in parts], [part[2] for part in parts]
            if hole == "text":
                texts = values
                like &= np.fromiter(map(len, values), np.int64, len(values)) > 0
            elif hole == "string":
                _mark_unlike(like, values, _is_text)
            elif hole == "list" and self.cumulative:
                _mark_unlike_where_list_grows(like, values)
            else:
                _mark_unlike(like, values, _IN_FORM[hole].fullmatch, b";")
            if hole == "so_far":
                so_far = np.array([int(value) if ok else 0 for ok, value in zip(like.tolist(), values, strict=True)])
                so_far += self.added
        if self.cumulative:
            _mark_where_text_does_not_grow(like, texts, text_before)
        else:
            _mark_unlike(like, texts, _is_text)
        return Alike(np.flatnonzero(~like).tolist(), texts, so_far, len(payloads))

    def _run(self, payloads: list[bytes], text_before: bytes | None) -> Alike | None:
        """Frame.compare up to the first event that is certainly unlike, where each text grows; None where that cannot be
        told without looking closer.

        What an event has in common with the one before is compared as memory, and each hole's end is looked for behind it:
        so what is looked at byte by byte grows with what is new, not with the answer.
        """
        if self.holes[0] != "text":
            return None
        if text_before is None:
            return Alike([0], [b""], None, 1)
        first, border, *borders = self.literals
        known, new, text_ends = first + text_before, [], []
        known_bytes = len(known)
        for payload in payloads:
            end = payload.find(border, known_bytes)
            if end <= known_bytes or not payload.startswith(known):
                break
            new.append(payload[known_bytes:end])
            text_ends.append(end)
            known, known_bytes = payload[:end], end
        holes, starts = self.holes[1:], [end + len(border) for end in text_ends]
        if holes and holes[0] == "list":
            lists, starts = _growing_lists(payloads, starts, borders[0])
            holes, borders = holes[1:], borders[1:]
            if lists and not _FINE["list"](lists):
                return None
        n_alike = len(starts)
        if not n_alike:
            return Alike([0], [b""], None, 1)
        if not _FINE["text"](new[:n_alike]):
            return None
        so_far: npt.NDArray[np.int64] | None = None
        rest = [payload[start:] for payload, start in zip(payloads, starts, strict=False)]
        for hole, border in zip(holes, borders, strict=True):
            # Mostly what is behind the first of these values is the same in all events.
            behind = border + rest[0].partition(border)[2]
            column = [one.removesuffix(behind) for one in rest]
            if sum(map(len, rest)) - sum(map(len, column)) == len(rest) * len(behind):
                rest = [behind[len(border) :]]
            else:
                parts = [one.partition(border) for one in rest]
                column, rest = [part[0] for part in parts], [part[2] for part in parts]
                if b"" in [part[1] for part in parts]:
                    return None
            if hole in _GROWING or not _FINE[hole](column):
                return None
            if hole == "so_far":
                counts = [*map(int, column)] * (1 if len(column) == n_alike else n_alike)
                so_far = np.array([*counts, 0]) + self.added
        if any(rest):
            return None
        texts = [b""] * (n_alike - 1) + [payloads[n_alike - 1][len(first) : text_ends[n_alike - 1]]]
        if n_alike == len(payloads):
            return Alike([], texts, None if so_far is None else so_far[:-1], n_alike)
        return Alike([n_alike], [*texts, b""], so_far, n_alike + 1)

    def text_in(self, payload: bytes) -> bytes | None:
        """The JSON of the text of an event that has been parsed; None where it has not the form of this frame."""
        at = len(self.literals[0])
        text = None
        if not payload.startswith(self.literals[0]):
            return None
        for hole, border in zip(self.holes, self.literals[1:], strict=True):
            if (end := payload.find(border, at)) < 0:
                return None
            if hole == "text":
                text = payload[at:end]
            at = end + len(border)
        return text if text and at == len(payload) and _is_text(text) else None


def _compare_ends(payloads: list[bytes], first: bytes, last: bytes) -> Alike:
    """Frame.compare where the text is the only hole: nearly all events of most servers."""
    texts = [payload.removeprefix(first).removesuffix(last) for payload in payloads]
    text_bytes = np.fromiter(map(len, texts), np.int64, len(texts))
    all_bytes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    like = (all_bytes - text_bytes == len(first) + len(last)) & (text_bytes > 0)
    _mark_unlike(like, texts, _is_text)
    return Alike(np.flatnonzero(~like).tolist(), texts, None, len(payloads))


class Marks(NamedTuple):
    """What a dialect's declaration comes to: where the holes of its events are."""

    text: re.Pattern[bytes] | None
    varying: re.Pattern[bytes] | None


def marks_of(dialect: Dialect) -> Marks:
    """The patterns for a dialect's `texts` and `varying`."""
    varying = dialect.varying
    forms = [
        (varying.strings, rb'"(?P<string>[^"\\]*)"'),
        (varying.numbers, rb"(?P<number>%b)" % _NUMBER),
        (varying.lists, rb"\[(?P<list>%b)\]" % _LIST),
        ((varying.so_far,) if varying.so_far else (), rb"(?P<so_far>0|[1-9][0-9]{0,8})(?![0-9.eE])"),
    ]
    alternatives = [rb'"(?:%b)"\s*:\s*%b' % (_any_of(keys), form) for keys, form in forms if keys]
    return Marks(
        re.compile(rb'"(?:%b)"\s*:\s*"' % _any_of(dialect.texts)) if dialect.texts else None,
        re.compile(b"|".join(alternatives)) if alternatives else None,
    )


def _any_of(keys: tuple[str, ...]) -> bytes:
    return b"|".join(re.escape(key.encode()) for key in keys)


def _end_of_text(payload: bytes, start: int) -> int:
    """Where a JSON text that begins at `start` ends: at a quotation mark that no backslash is before, or an even number."""
    stop = start
    while (stop := payload.find(b'"', stop)) > 0:
        behind = payload[start:stop]
        if (len(behind) - len(behind.rstrip(b"\\"))) % 2 == 0:
            return stop
        stop += 1
    return start


def _mark_unlike(
    like: npt.NDArray[np.bool_], values: list[bytes], is_fine: Callable[[bytes], object], border: bytes = b" "
) -> None:
    """Take those out of `like` whose value is not fine; all of them are looked at in one go first."""
    some = values if like.all() else [values[i] for i in np.flatnonzero(like)]
    # A border between, or two halves of a character would pass as whole. Of texts it may be a part, of numbers it is none.
    joined = border.join(some)
    if some and not (is_fine(joined) and (border == b" " or joined.count(border) == len(some) - 1)):
        for i in np.flatnonzero(like):
            like[i] = bool(is_fine(values[i])) and (border == b" " or border not in values[i])


def _mark_where_text_does_not_grow(like: npt.NDArray[np.bool_], texts: list[bytes], text_before: bytes | None) -> None:
    """Take those out of `like` whose text is not that of the event before and more; only what is new is looked at."""
    of_frame = like.copy()
    before = [text_before, *texts[:-1]]
    new = [b[len(a or b"") :] for a, b in zip(before, texts, strict=True)]
    starts = [a is not None and b.startswith(a) for a, b in zip(before, texts, strict=True)]
    like &= np.array(starts, bool) & (np.fromiter(map(len, new), np.int64, len(new)) > 0)
    like[1:] &= of_frame[:-1]  # or the event before has no such text
    _mark_unlike(like, new, _is_text)
    _mark_behind_unlike(like, texts, _is_text)


def _mark_unlike_where_list_grows(like: npt.NDArray[np.bool_], values: list[bytes]) -> None:
    """Take those out of `like` that are no lists of whole numbers; where one begins as that before, what is new is
    looked at."""
    new = [values[0], *(b[len(a) :] if a and b.startswith(a) else b for a, b in itertools.pairwise(values))]
    like[0] &= _LISTS.fullmatch(values[0]) is not None
    is_part = like & np.array([False, *(bool(a) and b.startswith(a) for a, b in itertools.pairwise(values))])
    _mark_unlike(is_part, new, _REST_OF_LISTS.fullmatch, b";")
    is_whole = like & ~is_part
    _mark_unlike(is_whole, values, _LISTS.fullmatch, b";")
    like &= is_part | is_whole
    _mark_behind_unlike(like, values, _LISTS.fullmatch)


def _mark_behind_unlike(like: npt.NDArray[np.bool_], values: list[bytes], is_fine: Callable[[bytes], object]) -> None:
    """Look at the whole of what follows an event that has to be parsed: what the two have in common has not been looked
    at."""
    if not like.all():
        for i in range(1, len(values)):
            if like[i] and not like[i - 1]:
                like[i] = bool(is_fine(values[i]))


def _growing_lists(payloads: list[bytes], starts: list[int], border: bytes) -> tuple[list[bytes], list[int]]:
    """(the lists from these places on, of one that begins as the one before its end alone; what is behind the border after
    each), up to the first event without."""
    before, lists, behind = b"", [], []
    for payload, start in zip(payloads, starts, strict=False):
        known = start + len(before) if before and payload.startswith(before, start) else start
        end = payload.find(border, known)
        if end <= start:
            break
        lists.append(payload[known:end])
        behind.append(end + len(border))
        before = payload[start:end]
    return lists, behind


def _all_of_form(form: re.Pattern[bytes]) -> Callable[[Sequence[bytes]], bool]:
    """Whether all values are of a form that takes several with ; between: looked at in one go."""

    def fine(values: Sequence[bytes]) -> bool:
        joined = b";".join(values)
        return joined.count(b";") == len(values) - 1 and form.fullmatch(joined) is not None

    return fine


def _are_lists(values: Sequence[bytes]) -> bool:
    """Whole lists, and what others have at their ends."""
    ends = [value for value in values if value[:1] in b","]
    return (not ends or _all_of_form(_REST_OF_LISTS)(ends)) and all(
        _all_of_form(_LISTS)([value]) for value in values if value[:1] not in b","
    )


def _is_text(text: bytes) -> bool:
    """Whether this is the inside of a JSON text (or several, with spaces between), whole escapes and whole UTF-8."""
    if b"\\" in text:
        text = _ESCAPE.sub(b"", text)
        if b"\\" in text:
            return False
    if b'"' in text or len(text.translate(None, _CONTROLS)) != len(text):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def text_of(raw: bytes) -> str:
    """The text that JSON like this stands for."""
    text: str = orjson.loads(b'"%b"' % raw)
    return text


_GROWING: Final = ("text", "list")

_FINE: Final[dict[str, Callable[[Sequence[bytes]], bool]]] = {
    "text": lambda values: _is_text(b" ".join(values)),
    "string": lambda values: all(map(_is_text, set(values))),
    "number": lambda values: _all_of_form(_NUMBERS)([*set(values)]),
    "so_far": _all_of_form(_COUNTS),
    "list": _are_lists,
}
"""Whether the values of a hole are what may stand there, event by event; of texts and lists what is new."""
