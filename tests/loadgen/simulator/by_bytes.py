"""A request as bytes, and a socket read to a place, for what no client of HTTP would do."""

import json

BODY = json.dumps(
    {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True}
).encode()


def raw_request(body: bytes = BODY, version: str = "1.1", *fields: str) -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def read_until(sock, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def read_to_end(sock) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))
