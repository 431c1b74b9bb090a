"""A caller over HTTP that costs little itself: one kept connection, requests prepared, answers read by their length."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import orjson

from bench.features.declared import NOW, SET, card


class Caller:
    """Blocking. Raises RuntimeError for an answer that is not 200."""

    def __init__(self, port: int, bearer: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bearer = bearer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def request(self, numbers: list[int], accept: str = "application/json") -> bytes:
        """The bytes of a read of these cards."""
        asked = {"keys": [{"card": card(n)} for n in numbers], "sets": [SET.name], "t_ms": NOW}
        return self.prepared("/v1/bench/features", asked, accept)

    def prepared(self, path: str, asked: object, accept: str = "application/json") -> bytes:
        """The bytes of a call."""
        body = orjson.dumps(asked)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._bearer}\r\n"
            f"accept: {accept}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def call(self, request: bytes) -> bytes:
        """The body of the answer."""
        self._socket.sendall(request)
        got = self._socket.recv(1 << 18)
        head, _, body = got.partition(b"\r\n\r\n")
        at = head.lower().index(b"content-length: ") + 16
        length = int(head[at:].split(b"\r\n", 1)[0])
        parts, size = [body], len(body)
        while size < length:
            parts.append(self._socket.recv(1 << 18))
            size += len(parts[-1])
        whole = b"".join(parts)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head!r} {whole[:300]!r}")
        return whole
