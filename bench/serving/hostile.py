"""Clients that are slow, that vanish, send garbage or lie about lengths."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def attack(port: int, connections: int, body: bytes, seed: int = 0) -> list[socket.socket]:
    """Open `connections` at once, each of one kind, and return those that stay open. All go to loopback."""
    generator = random.Random(seed)
    kinds = (idle, trickle, vanish, send_garbage, declare_too_much, declare_too_little, leave_stream)
    opened = []
    for number in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        with suppress(OSError):  # the server has closed it already
            kinds[number % len(kinds)](connection, body, generator)
        opened.append(connection)
    return [connection for connection in opened if connection.fileno() >= 0]


def make_head(length: int, address: str = "/v1/audio?steps=2") -> bytes:
    return f"POST {address} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode()


def idle(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Send nothing."""


def trickle(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Send half a head."""
    connection.sendall(make_head(len(body))[:30])


def vanish(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Leave in the middle of the body."""
    connection.sendall(make_head(len(body)) + body[: len(body) // 2])
    connection.close()


def send_garbage(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    connection.sendall(generator.randbytes(2000))


def declare_too_much(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Declare a hundred times what is sent."""
    connection.sendall(make_head(100 * len(body)) + body)


def declare_too_little(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Send more than declared: the rest is read as another request."""
    connection.sendall(make_head(len(body) // 2) + body)


def leave_stream(connection: socket.socket, body: bytes, generator: random.Random) -> None:
    """Ask for a stream and leave at once."""
    connection.sendall(make_head(len(body), "/v1/audio?steps=50&stream=true") + body)
    connection.close()
