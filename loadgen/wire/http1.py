"""HTTP/1.x responses: status, the headers that matter, and the body as it was cut by the reads.

httptools (llhttp) does the reading; this file adds what it leaves open: interim responses (1xx), bodies that
end with the connection, a limit on the head, and the count of body parts behind each read, which is how an event
later finds the read, and so the stamp, that completed it.
"""

import re
from typing import Final

import httptools

# Far above what servers send (8 KiB is the usual limit of servers themselves); an endless head must not eat the memory.
MAX_HEAD_BYTES: Final = 256 * 1024

# A server's first frame over HTTP/2 (RFC 9113, 3.4 and 4.1): 24 bits of length, type SETTINGS, flags, stream 0.
_H2_SETTINGS: Final = re.compile(rb"\A\x00.{2}\x04[\x00\x01]\x00{4}", re.DOTALL)


class BadResponse(Exception):
    """The bytes are no HTTP/1.x response; one sentence."""


class ResponseReader:
    """Reads one response after the other off a connection; `begin()` before each.

    Attributes, valid once `head_complete`: `status`; `content_type` (lower case, without parameters);
    `content_encoding`; `retry_after`; `keep_alive` (valid when `complete`). `parts` are the pieces of the body,
    `part_counts[i]` how many of them were there after read i. The body is the caller's to take away (`take()`).
    """

    __slots__ = (
        "_bare_bytes",
        "_delimited",
        "_head_bytes",
        "_parser",
        "_parts_asked",
        "_unasked",
        "chunked",
        "complete",
        "content_encoding",
        "content_type",
        "head_complete",
        "keep_alive",
        "location",
        "on_body",
        "part_counts",
        "parts",
        "retry_after",
        "status",
    )

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.part_counts: list[int] = []
        # The hot callback is list.append itself: no Python frame a chunk. httptools binds it once, so the list stays.
        self.on_body = self.parts.append
        self.begin()
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """Forget the response before; the next bytes start a new one."""
        self.status = 0
        self.content_type = self.content_encoding = self.retry_after = self.location = ""
        self.head_complete = self.complete = self.keep_alive = False
        self.parts.clear()
        self.part_counts.clear()
        self.chunked = False
        self._delimited = False
        self._unasked = False
        self._parts_asked = 0
        self._head_bytes = 0
        self._bare_bytes = 0

    def close(self) -> None:
        """Let go of the parser: the two point at each other, and a process without a collector would keep them for ever."""
        del self._parser

    def feed(self, data: bytes) -> None:
        """Read what one read brought. BadResponse if it is no HTTP.

        Bytes behind the end of the response are nobody's: they cost the connection (`keep_alive`), not the response.
        """
        if not self._head_bytes and not self.head_complete and _H2_SETTINGS.match(data):
            raise BadResponse("the server speaks HTTP/2 alone; this client speaks HTTP/1.1")
        self.feed_many([data])
        if not self.head_complete:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadResponse(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")

    def feed_many(self, reads: list[bytes]) -> int:
        """Read what many reads brought, behind the head; as feed.

        Returns how many of them were used: fewer than all if the response was complete before the last.
        """
        feed, parts, part_counts = self._parser.feed_data, self.parts, self.part_counts
        used, parts_before = 0, len(self.parts)
        try:
            for data in reads:
                used += 1
                feed(data)
                part_counts.append(len(parts))
                if self.complete:
                    break
        except httptools.HttpParserUpgrade:
            raise BadResponse("the server switched protocols") from None
        except httptools.HttpParserError as error:
            if not self.complete:
                raise BadResponse(f"not an HTTP/1.x response: {error}") from None
            self._unasked = True
            part_counts.append(len(parts))
        if self._unasked:
            self.keep_alive = False
            del parts[self._parts_asked :]
            part_counts[-1] = len(parts)
        if len(parts) != parts_before:
            self._bare_bytes = 0
        elif self.head_complete and not self.complete:
            self._bare_bytes += sum(map(len, reads))
            if self._bare_bytes > MAX_HEAD_BYTES:
                raise BadResponse(f"trailers or a chunk's head longer than {MAX_HEAD_BYTES} bytes")
        return used

    def feed_eof(self) -> None:
        """The peer closed: completes a response whose body ends with the connection."""
        if self.head_complete and not self._delimited:
            self.complete = True
            self.keep_alive = False

    def take(self) -> tuple[list[bytes], list[int]]:
        """Hand out and forget (parts, part_counts) of the body read so far."""
        taken = self.parts.copy(), self.part_counts.copy()
        self.parts.clear()
        self.part_counts.clear()
        return taken

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            self._unasked = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._unasked:
            return
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.split(b";")[0].strip().decode("latin-1").lower()
        elif name == b"content-encoding":
            self.content_encoding = value.strip().decode("latin-1").lower()
        elif name == b"retry-after":
            self.retry_after = value.strip().decode("latin-1")
        elif name == b"location":
            self.location = value.strip().decode("latin-1")
        elif name == b"content-length":
            self._delimited = True
        elif name == b"transfer-encoding":
            self._delimited = True
            self.chunked = b"chunked" in value.lower()

    def on_headers_complete(self) -> None:
        if self._unasked:
            return
        self.status = self._parser.get_status_code()
        self.head_complete = self.status >= 200

    def on_message_complete(self) -> None:
        if self._unasked:
            return
        if self.status < 200:  # interim (100, 103): the real response follows
            self.status = 0
            self._delimited = False
            return
        self.keep_alive = self._parser.should_keep_alive()
        self._parts_asked = len(self.parts)
        self.complete = True
