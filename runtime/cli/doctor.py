"""`sc-runtime doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from .console import Console
from .options import Json
from .tables import format_choices, format_versions, print_facts, print_table

if TYPE_CHECKING:
    from .examine import Findings


def doctor(as_json: Json = False) -> None:
    """Show what works on this machine, and why the rest does not.

    It lists what is installed, which backends work and where bundles are found. The exit code is 1 if no backend works.
    """
    from .examine import examine

    findings = examine()
    Console(as_json).finish(findings)
    if not as_json:
        print_findings(findings)
    if not findings["works"]:
        raise typer.Exit(1)


def print_findings(findings: Findings) -> None:
    cpu, bundles = findings["cpu"], findings["bundles"]
    print_facts(
        {
            "python": f"{findings['python']} ({findings['executable']})",
            "platform": findings["platform"],
            "cpu": f"{cpu['model']}, {cpu['usable_threads']} of {cpu['threads']} threads, {' '.join(cpu['features'])}",
            "packages": format_versions(findings["packages"]),
        }
    )
    rows: list[tuple[Any, ...]] = []
    for backend in findings["backends"]:
        state = "works" if backend["tried"] else "installed; not tried without a bundle"
        rows.append((backend["name"], f"{state}, on {backend['device']}" if backend["works"] else backend["reason"]))
    print_table(("backend", "state"), rows)
    rows = []
    for extra, packages in findings["extras"].items():
        state = "installed" if all(packages.values()) else f"pip install 'sc-runtime[{extra}]'"
        rows.append((extra, state, format_versions(packages)))
    print_table(("extra", "state", "packages"), rows)
    rows = []
    for bundle in bundles["found"]:
        holds = f"{bundle['codec']}, {bundle['tps']} tps, vocabulary {format_choices(bundle['vocabularies'])}"
        rows.append(("*" if bundle["path"] == bundles["chosen"] else "", bundle["name"], bundle["problem"] or holds))
    if rows:
        print_table(("", "bundle", "state"), rows)
    print()
    print_facts(
        {
            "bundles in": bundles["folder"],
            "SC_RUNTIME_BUNDLE": bundles["variable"] or "not set",
            "without --bundle": bundles["chosen"] or bundles["problem"],
        }
    )
