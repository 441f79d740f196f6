"""Parts of a measurement that reach for the network, and one that does not. They import little: they start quickly."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress
from typing import Any

from bench.harness.parts import Session


def call_out(session: Session) -> dict[str, Any]:
    """A part that asks another machine (of an address that nobody has), and takes no for an answer."""
    with suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    return {}


def call_out_natively(session: Session) -> dict[str, Any]:
    """The same in a program that is not Python."""
    return {"code": subprocess.run(["bash", "-c", "exec 3<>/dev/tcp/192.0.2.2/80"], stderr=subprocess.PIPE).returncode}


def look_up(session: Session) -> dict[str, Any]:
    socket.getaddrinfo("nobody.invalid", 80)
    return {}


def send(session: Session) -> dict[str, Any]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as given:
        given.sendto(b"", ("2001:db8::1", 53))
    return {}


def stay_here(session: Session) -> dict[str, Any]:
    """Connections on this machine, which stay allowed: by an address, a name and a file."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("127.0.0.1", "localhost"):
            socket.create_connection((name, server.getsockname()[1])).close()
    one, other = socket.socketpair()
    one.close()
    other.close()
    return {}
