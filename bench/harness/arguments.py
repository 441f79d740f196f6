"""Arguments of the commands: parsing and checking. Each function raises before anything is measured."""

from __future__ import annotations

import importlib.util

from sc_runtime.errors import MissingExtraError, SettingsError


def parse_seconds(text: str) -> list[float]:
    """Durations in seconds, comma-separated, shortest first. Raises SettingsError."""
    try:
        durations = sorted({float(part) for part in text.split(",")})
    except ValueError:
        durations = []
    if not durations or not all(1e-3 <= seconds < 1e6 for seconds in durations):
        raise SettingsError(f"--seconds {text}", "durations above 0, comma-separated, such as 5,10,30,60")
    return durations


def parse_batch(text: str) -> tuple[int, int]:
    """Numbers of windows that run together in encoding and decoding: "4,1", or "4" for both. Raises SettingsError."""
    try:
        encode, _, decode = text.partition(",")
        batches = int(encode), int(decode or encode)
    except ValueError:
        batches = 0, 0
    if min(batches) < 1:
        raise SettingsError(f"--batch {text}", "windows of encoding and decoding, such as 4,1")
    return batches


def check_positive(option: str, count: int | None) -> None:
    """Raises SettingsError for a `count` below 1."""
    if count is not None and count < 1:
        raise SettingsError(f"{option} {count}", "at least 1")


def require_package(package: str, extra: str) -> None:
    """Raises MissingExtraError, which names the `extra` to install, if `package` is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"{package} is not installed", f"the extra `{extra}`", f"pip install 'sc-runtime[{extra}]'"
        )
