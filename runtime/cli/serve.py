"""`sc-runtime serve`."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from sc_runtime.errors import MissingExtraError, SettingsError, first_line

from .options import BackendName, BundleName, Precision, Threads


def serve(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8000,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SC_RUNTIME_API_KEY",
            help="The key that clients must send; by default none. Process lists show the option, not the variable.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may use the server (CORS); may be repeated.")
    ] = None,
    batch_ms: Annotated[
        float, typer.Option(help="How long a window waits for windows of other requests, at most, in milliseconds.")
    ] = 5.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A bound, such as seconds=120 or requests=16; may be repeated. runtime/serving/README.md lists them.",
        ),
    ] = None,
) -> None:
    """Serve the codec over HTTP and WebSocket, with a page to try it.

    After SIGTERM the server completes the requests that run, for at most 20 s; --limit drain_seconds=… changes that.
    """
    from sc_runtime.bundle.locate import locate_bundle

    try:
        from sc_runtime.serving.server import make_server
        from sc_runtime.serving.settings import ServeSettings, parse_limit
    except ModuleNotFoundError as error:
        given = f"serve without the package {error.name}"
        raise MissingExtraError(given, "the extra serve", "pip install 'sc-runtime[serve]'") from error
    locate_bundle(bundle)  # an unknown bundle ends the command here
    values = {
        "bundle": bundle,
        "backend": backend,
        "threads": threads,
        "precision": precision,
        "batch_ms": batch_ms,
        "api_key": api_key,
        "origins": origin or (),
        "limits": dict(map(parse_limit, limit or [])),
    }
    check_address(host, port)
    make_server(ServeSettings.from_mapping(values), host, port).run()


def check_address(host: str, port: int) -> None:
    """Raises SettingsError if no server can listen there. Without this, the codec is loaded first."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        given = f"--host {host} --port {port} ({error.strerror or first_line(error)})"
        raise SettingsError(given, "an address of this machine and a free port", "choose another") from None
