"""Is it ready: one small question per kind of component, answered within a second; or a command, which may take longer."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess

from headrace_local.settings import HOST

TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 30.0


def is_ready(kind: str, port: int, path: str = "") -> bool:
    """Ask the component on 127.0.0.1:port once; one that is down answers False. `kind` is http, kafka, postgres or command."""
    try:
        if kind == "http":
            return _http(port, path)
        if kind == "kafka":
            return _kafka(port)
        if kind == "postgres":
            return _postgres(port)
        if kind == "command":
            return _listens(port) and _command(path)
    except (OSError, http.client.HTTPException, struct.error):
        return False
    raise ValueError(f"no such probe: {kind}")


def _http(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S):
        return True


def _command(words: str) -> bool:
    """JSON {"argv", "env"}: ready when it ends with 0. What it says goes to the caller's log."""
    command = json.loads(words)
    try:
        done = subprocess.run(
            command["argv"], check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | command["env"],
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _kafka(port: int) -> bool:
    """Metadata v1 for no topics: the broker answers requests only once the controller has let it in."""
    client = b"headrace-local"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as conn:
        conn.sendall(struct.pack(">i", len(body)) + body)
        size, _, brokers = struct.unpack(">iii", _exactly(conn, 12))
        return size >= 8 and brokers >= 1


def _postgres(port: int) -> bool:
    """A start-up packet of protocol 3.0; `R` asks for (or grants) authentication, `E` means still starting."""
    body = struct.pack(">i", 196608) + b"user\0postgres\0database\0postgres\0\0"
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as conn:
        conn.sendall(struct.pack(">i", len(body) + 4) + body)
        return _exactly(conn, 1) == b"R"


def _exactly(conn: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = conn.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("closed before it answered")
        data += chunk
    return data
