"""What a server is started with, and the bounds it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sc_runtime.errors import SettingsError, check_finite, check_whole


@dataclass(frozen=True)
class Limits:
    """The bounds of a server. A request that goes over one is refused with a status of its own.

    audio_bytes: size of a recording's body (413).
    token_bytes: size of a body of tokens (413).
    seconds: length of the sound of a request (422).
    positions: number of positions of a request's tokens (422).
    requests: number of requests that are received, waiting or running (429).
    streams: number of streams open at once, WebSockets and answers with `stream=true` (429).
    connections: number of open connections (503).
    upload_seconds: time in which a body must arrive (408).
    request_seconds: time in which a request must be answered (504). A stream is cut after it.
    idle_seconds: time that a WebSocket may be silent where the server waits for the client (close code 4408).
    drain_seconds: time after SIGTERM in which running requests may end.
    """

    audio_bytes: int = 64 * 2**20
    token_bytes: int = 4 * 2**20
    seconds: float = 600.0
    positions: int = 65536
    requests: int = 64
    streams: int = 16
    connections: int = 1024
    upload_seconds: float = 30.0
    request_seconds: float = 300.0
    idle_seconds: float = 30.0
    drain_seconds: float = 20.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value, expected = getattr(self, each.name), "more than 0"
            check = check_finite if isinstance(each.default, float) else check_whole
            if check(each.name, value, expected) <= 0:
                raise SettingsError(f"{each.name} {value}", expected)


@dataclass(frozen=True)
class ServeSettings:
    """Everything that a server is started with.

    bundle, backend, threads, precision: as `Codec.load` takes them.
    batch_ms: longest time that a window waits for windows of other requests, in milliseconds.
    api_key: what a client must send; None lets every client in.
    origins: web pages that may use the server, as "https://example.org"; none by default.
    """

    bundle: str | None = None
    backend: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    batch_ms: float = 5.0
    api_key: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        expected = "0 to 1000 milliseconds"
        if not 0 <= check_finite("batch_ms", self.batch_ms, expected) <= 1000:
            raise SettingsError(f"batch_ms {self.batch_ms}", expected)
        if self.api_key is not None and (not self.api_key or not self.api_key.isascii()):
            raise SettingsError("an API key that is empty or not ASCII", "ASCII characters", "name another key")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ServeSettings:
        """Settings by field name; `limits` may be a mapping too. Raises SettingsError for a name that is no field."""
        check_names(values, cls)
        limits = values.get("limits", {})
        check_names(limits, Limits)
        changed = {**values, "limits": Limits(**limits), "origins": tuple(values.get("origins", ()))}
        return cls(**changed)


def check_names(values: Mapping[str, Any], kind: type[Limits] | type[ServeSettings]) -> None:
    names = [each.name for each in fields(kind)]
    for name in values:
        if name not in names:
            raise SettingsError(f"setting {name}", f"one of {', '.join(names)}")


def parse_limit(text: str) -> tuple[str, float | int]:
    """NAME=VALUE as a pair. Raises SettingsError."""
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise SettingsError(f"the limit {text!r}", "NAME=NUMBER, such as seconds=120") from None


def round_up_seconds(seconds: float) -> int:
    """Whole seconds, at least 1 and at most 60, as `Retry-After` has them."""
    return min(max(math.ceil(seconds), 1), 60)
