"""`sc-runtime build` exists in a checkout and in a wheel, and hands its arguments to the exporter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.cli.app import app
from sc_runtime.cli.build import import_exporter
from sc_runtime.cli.program import run_command
from sc_runtime.errors import BundleError, MissingExtraError
from tests.conftest import ROOT


def test_the_remedy_names_a_command_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError) as caught:
        locate_bundle("nowhere")
    program, command, *options = caught.value.remedy.split()
    assert (program, options) == ("sc-runtime", ["--tps", "50"])
    assert run_command(app, [command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "sc-runtime build" in shown or "Usage: " in shown
    assert "--checkpoint" in shown and "--seeded" in shown


def test_its_errors_are_one_line_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--tps", "51", "--seeded", "1"], 1), (["--no-such-option"], 2)):
        assert run_command(app, ["build", *arguments, "--out", str(tmp_path / "bundle")]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exporter_without_torch.py").write_text("import torch_that_is_not_there.nn")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"torch_that_is_not_there is not installed; .*'sc-runtime\[export\]'"):
        import_exporter("exporter_without_torch")


def test_the_program_does_not_import_torch_for_other_commands() -> None:
    code = (
        "import sys, sc_runtime.cli.app; assert 'torch' not in sys.modules and 'sc_runtime.export' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
