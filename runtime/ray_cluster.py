"""Ray: the cluster to use, without usage reports."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from .errors import BackendError, MissingExtraError, first_line

ANSWER_SECONDS = 10  #: that a cluster has to answer
USAGE_VARIABLE = "RAY_USAGE_STATS_ENABLED"


def connect(quiet: bool = False) -> Any:
    """Ray, joined to the cluster of $RAY_ADDRESS, or started on this machine.

    quiet: whether neither Ray nor its workers write to this process's streams.

    Raises MissingExtraError, BackendError.
    """
    turn_off_usage_reports()
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray is not installed", "Ray", "pip install 'sc-runtime[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"  # Ray's "auto" would join whatever runs on this machine
        check_address(address)
        try:
            options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
            options |= {"log_to_driver": False, "logging_level": logging.ERROR} if quiet else {}
            ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            given = f"Ray at {address}: {first_line(error)}"
            raise BackendError(given, "a cluster that runs", "start one, or unset RAY_ADDRESS") from error
    return ray


def check_address(address: str) -> None:
    """Raises BackendError if nothing answers at an address "host:port"; Ray 2.60 waits for minutes there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        given = f"Ray at {address}: {error.strerror or error}"
        raise BackendError(given, "a cluster that runs", "start one, or unset RAY_ADDRESS") from error


def turn_off_usage_reports() -> None:
    """Turn Ray's usage reports off, unless the user chose: by the variable, or by `ray enable-usage-stats`."""
    path = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH") or Path("~/.ray/config.json").expanduser()
    try:
        chosen = json.loads(Path(path).read_text()).get("usage_stats")
    except (OSError, ValueError, AttributeError):
        chosen = None
    if chosen is None:
        os.environ.setdefault(USAGE_VARIABLE, "0")
