"""The calls to make on a machine with a GPU where nothing can be fetched: each with what it carries, ready to paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.gpu_wheel import LIMIT, count_tracked
from bench.harness.machine import ROOT

MOST_CHARACTERS = 2000  #: of a command
CODE = "/tmp/code"  #: the copy of the checkout there


@dataclass(frozen=True)
class Call:
    """One call: `limit` seconds for `command`, with the ignored paths `carried` of the checkout."""

    limit: int
    carried: list[str]
    command: str


def enter_copy(carry: Path, code: str = CODE) -> str:
    """Shell code that copies the checkout to `code`, unless a call has, and goes there. It sets CARRY.

    Each call replaces the working tree. A process that outlives its call, and imports modules later, would not find
    them there: so it has to run from a copy. `carry`, the folder of what travels, is not copied. The call ends if the
    copy fails, and leaves no part of one.
    """
    pack = f"tar --exclude=./.git --exclude=./{carry} -cf - ."
    new = f"{code}.new"
    made = f"(set -o pipefail; rm -rf {new} && mkdir {new} && {pack} | tar -xC {new} && mv {new} {code})"
    failed = f"{{ rm -rf {new}; echo 'the checkout could not be copied to {code}' >&2; exit 1; }}"
    paths = f'export CARRY=$(realpath {carry}) OUT=$(realpath "$OUT")'
    return f"{paths}; [ -d {code} ] || {made} || {failed}; cd {code} || exit 1; "


def print_calls(calls: Sequence[Call], aside: Sequence[str], results: str) -> None:
    """The calls, in order, each with its size. Raises SystemExit for one that is too large.

    aside: patterns of tracked files that must go before, to make room, and come back after.
    results: what to do with the results, or where they are.
    """
    tracked = count_tracked(aside)
    print("Before the calls, in the root of a checkout without changes, to make room:")
    print(f"    rm -r {' '.join(aside)}")
    for number, call in enumerate(calls, 1):
        size = tracked + sum(count_path(ROOT / path) for path in call.carried)
        megabytes = f"{size / 2**20:.1f} MiB of {LIMIT / 2**20:.0f}"
        print(f"\nCall {number}: timeout_s={call.limit}, carry={call.carried}, {megabytes}")
        print(f"    {call.command}")
        if len(call.command) > MOST_CHARACTERS or size > LIMIT:
            raise SystemExit(f"call {number} is too large: {len(call.command)} characters, {size} bytes")
    quoted = " ".join(f"'{pattern}'" for pattern in aside)
    print(f"\nAfter the calls: git checkout -- {quoted}; give the machine back; {results}")


def count_path(path: Path) -> int:
    return count_bytes(path) if path.is_dir() else path.stat().st_size


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
