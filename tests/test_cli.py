"""The program `sc-runtime`: its files, its streams and its exit codes.

Most tests run the commands in this process (`call`). A process is started where streams, signals or limits are tested.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.caches import Cache
from sc_runtime.cli.app import app
from sc_runtime.cli.options import spread_options
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import BundleError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.spec import DecodeOptions, EncodeOptions
from sc_runtime.tokens import Tokens
from sc_runtime.unicodec.config import UniCodecConfig
from tests.conftest import load_manifest

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals, limits and terminals of POSIX")
SECOND = np.random.default_rng(3).uniform(-0.3, 0.3, 16_000).astype(np.float32)
CODES = np.random.default_rng(4).integers(0, 4096, (29, 2))
QUICK = (
    "--steps",
    "1",
    "--backend",
    "onnxruntime",
)  #: options; this backend loads the tiny networks fastest
HEAVY = {"numpy", "onnxruntime", "openvino", "soundfile", "soxr", "kaldi_native_fbank", "matplotlib", "rich", "torch"}


@pytest.fixture
def environment(tiny_bundle):
    """The environment of a process: the tiny bundle, and an encoding of stdout that has every character."""
    return {**os.environ, "SC_RUNTIME_BUNDLE": str(tiny_bundle), "PYTHONIOENCODING": "utf-8"}


@pytest.fixture
def program_run(tmp_path, environment):
    """Run the program in a process of its own, in `tmp_path`. Returns the finished process, its streams as bytes."""

    def run(*arguments, **options):
        command = [sys.executable, "-m", "sc_runtime.cli", *map(str, arguments)]
        options = {"capture_output": True, "cwd": tmp_path, "env": environment, "timeout": 60, **options}
        return subprocess.run(command, **options)

    return run


@pytest.fixture
def call(tmp_path, tiny_bundle, monkeypatch, capfd):
    """Run the program in this process, in `tmp_path`. Returns (exit code, stdout, stderr), C libraries' output too.

    `stdin` is the path of a file that stands for standard input.
    """
    monkeypatch.setenv("SC_RUNTIME_BUNDLE", str(tiny_bundle))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=None):
        with ExitStack() as stack:
            if stdin:
                monkeypatch.setattr(sys, "stdin", stack.enter_context(stdin.open()))
            code = run_command(app, list(map(str, arguments)))
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def fails(call, tmp_path):
    """Run the program. It must fail with one line that holds all of `words`, and leave the folder as it was."""

    def run(*arguments, words=(), code=1, stdin=None):
        before = list_files(tmp_path)
        result, out, err = call(*arguments, stdin=stdin)
        assert result == code
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert err.startswith("error: ")
        assert "Traceback" not in err
        for word in words:
            assert word in err
        assert list_files(tmp_path) == before
        return err

    return run


@pytest.fixture
def speech(tmp_path) -> Path:
    soundfile.write(tmp_path / "speech.wav", SECOND, 16_000)
    return tmp_path / "speech.wav"


@pytest.fixture
def tokens(tmp_path) -> Path:
    """An .sct of the bundle's smaller vocabulary, 1 s."""
    Tokens.from_array(CODES, SemantiCodecConfig(50, 4096), samples=16_000).save(tmp_path / "tokens.sct")
    return tmp_path / "tokens.sct"


def list_files(folder: Path) -> dict[str, int]:
    """The time of the last change of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- usage -----------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path):
    """Modules are counted, not seconds, which depend on the machine."""
    script = (
        "import sys; from sc_runtime.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0
    for command in ("encode", "decode", "roundtrip", "demo", "info", "doctor"):
        assert command in result.stdout
    modules = result.stderr.split()
    assert HEAVY.isdisjoint(modules)
    assert len(modules) < 400  # about 280 with Python 3.11 and typer 0.29
    ours = [name for name in modules if name.startswith("sc_runtime.") and not name.startswith("sc_runtime.cli")]
    assert sorted(ours) == ["sc_runtime.config", "sc_runtime.errors", "sc_runtime.samples", "sc_runtime.spec"]


def test_the_package_imports_its_names_when_they_are_used():
    script = (
        "import sys, sc_runtime\n"
        "assert 'numpy' not in sys.modules\n"
        "from sc_runtime import *\n"
        "assert Codec.__module__ == 'sc_runtime.codec' and Tokens.__module__ == 'sc_runtime.tokens'\n"
        "assert set(sc_runtime.__all__) <= set(dir(sc_runtime)) and not hasattr(sc_runtime, 'Codecs')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_stated_types_of_the_package_are_those_of_its_names():
    """`__init__.pyi` and `__init__.py` have the same names, from the same modules."""
    import sc_runtime

    stub = Path(sc_runtime.__file__).with_suffix(".pyi").read_text()
    imports = dict(re.findall(r"^from (\S+) import (\w+) as \2$", stub, re.MULTILINE))
    assert {name: module for module, name in imports.items()} == sc_runtime.HOMES
    assert sorted(sc_runtime.HOMES) == sorted(sc_runtime.__all__)
    assert str(sc_runtime.__all__).replace("'", '"') in stub


def test_the_options_of_a_codec_are_those_of_the_command_line(call):
    """Every field with a help text, and no other."""
    _, out, _ = call("roundtrip", "--help")
    for field in (*dataclasses.fields(DecodeOptions), *dataclasses.fields(EncodeOptions)):
        assert (f"--{field.name} " in out) == bool(field.metadata), field.name
    assert "--interval LOW HIGH" in out
    _, out, _ = call("demo", "--help")
    assert "--preset" in out
    assert "--seed" in out
    assert "--steps" not in out


def test_options_that_no_class_has_are_refused():
    def command(*, options: DecodeOptions) -> None: ...

    with pytest.raises(ValueError, match="has no options stepz"):
        spread_options("steps", "stepz")(command)


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip", "info", "doctor"])
def test_every_command_explains_itself(call, command):
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out


def test_version(call):
    from sc_runtime import __version__

    assert call("--version") == (0, f"sc-runtime {__version__}\n", "")


def test_without_a_command_the_help_is_printed(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "Commands:" in out


@pytest.mark.parametrize(
    "arguments", [["sing"], ["decode"], ["decode", "--loud"], ["decode", "a.sct", "--steps", "many"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(fails, arguments):
    fails(*arguments, code=2, words=["--help"])


def test_no_command_imports_torch(speech, environment):
    script = (
        "import sys; from sc_runtime.cli.app import app; from sc_runtime.cli.program import run_command\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None  # an import of either raises\n"
        f"roundtrip = ['roundtrip', 'speech.wav', *{QUICK}]\n"
        "for arguments in (['doctor'], ['info', 'speech.wav'], roundtrip):\n"
        "    assert run_command(app, arguments) == 0\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=speech.parent, env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


# --- what is written -------------------------------------------------------------------------------------------


def test_a_file_becomes_tokens_beside_it_and_sound_again(program_run, speech, tmp_path):
    """By the program itself: its streams hold results only."""
    result = program_run("encode", "speech.wav")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"speech.sct: 1.00 s, 29 positions, 0.7 kbps; took ")
    assert Tokens.load(tmp_path / "speech.sct").samples == 16_000
    np.save(tmp_path / "tokens.npy", CODES[np.newaxis])
    result = program_run("decode", "tokens.npy", *QUICK)
    assert (result.returncode, result.stderr) == (0, b"")
    assert soundfile.info(tmp_path / "tokens.decoded.wav").frames == 18_560
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_an_output_may_be_named(call, speech, tmp_path):
    assert call("encode", speech, "-o", "codes.npy")[0] == 0
    assert np.load(tmp_path / "codes.npy").shape == (1, 29, 2)
    assert call("decode", "codes.npy", "-o", "again.flac", *QUICK)[0] == 0
    assert soundfile.info(tmp_path / "again.flac").format == "FLAC"
    (tmp_path / "folder").mkdir()
    assert call("encode", speech, "-o", "folder")[0] == 0
    assert call("encode", speech, "-o", "new/")[0] == 0
    assert (tmp_path / "folder" / "speech.sct").read_bytes() == (tmp_path / "new" / "speech.sct").read_bytes()


def test_a_vocabulary_may_be_chosen(call, speech, tmp_path):
    assert call("encode", speech, "--vocab", 4096)[0] == 0
    assert Tokens.load(tmp_path / "speech.sct").config.vocab == 4096
    assert call("decode", "speech.sct", "-o", "a.wav", *QUICK)[0] == 0
    np.save(tmp_path / "speech.npy", Tokens.load(tmp_path / "speech.sct").codes)
    assert call("decode", "speech.npy", "-o", "b.wav", "--vocab", 4096, *QUICK)[0] == 0
    a, b = (soundfile.read(tmp_path / name)[0] for name in ("a.wav", "b.wav"))
    np.testing.assert_array_equal(a[:16_000], b[:16_000])


def test_options_reach_the_decoder(call, tokens, monkeypatch):
    received, plan_decoding = [], Codec.plan_decoding

    def plan_quickly(codec, tokens, options):
        received.append(options)
        return plan_decoding(codec, tokens, DecodeOptions(steps=1, guidance=1.0))

    monkeypatch.setattr(Codec, "plan_decoding", plan_quickly)
    assert call("decode", tokens)[0] == 0
    options = ("--steps", 20, "--guidance", 1.5, "--eta", 0, "--seed", 2**63, "--preset", "fast", "--solver", "unipc")
    options += ("--interval", 200, 1000)
    assert call("decode", tokens, "--force", *options)[0] == 0
    assert received == [DecodeOptions(), DecodeOptions("fast", 20, 1.5, 0, "unipc", (200, 1000), 2**63)]


def test_a_folder_keeps_its_shape_and_one_bad_file_stops_nothing(call, speech, tmp_path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    shutil.copy(speech, tmp_path / "set" / "a.wav")
    shutil.copy(speech, tmp_path / "set" / "deep" / "b.wav")
    (tmp_path / "set" / "bad.wav").write_bytes(b"no audio" * 100)
    (tmp_path / "set" / "bad.mp3.mp3").write_bytes(b"\xff\xfb\x90\0" + bytes(2000))
    (tmp_path / "empty").mkdir()
    code, _, err = call("encode", "set", "gone.wav", "empty", "-o", "out")
    assert code == 1
    lines = err.splitlines()  # libmpg123 prints a remark on the MP3, which is suppressed
    assert len(lines) == 4, lines
    for name in ("empty", "set/bad.wav", "set/bad.mp3.mp3", "gone.wav"):
        assert any(line.startswith(f"error: {name}") for line in lines)
    assert list_files(tmp_path / "out").keys() == {"a.sct", "deep", "deep/b.sct"}

    code, _, err = call("decode", "out", *QUICK)
    assert (code, err) == (0, "")
    written = {"a.sct", "a.decoded.wav", "deep", "deep/b.sct", "deep/b.decoded.wav"}
    assert list_files(tmp_path / "out").keys() == written


def test_what_exists_is_kept_unless_forced(call, speech, tmp_path):
    (tmp_path / "speech.sct").write_bytes(b"mine")
    soundfile.write(tmp_path / "other.wav", SECOND, 16_000)
    code, out, err = call("encode", speech, "other.wav")
    assert code == 0
    assert err.startswith("kept ")
    assert len(err.splitlines()) == 1
    assert len(out.splitlines()) == 1
    assert (tmp_path / "speech.sct").read_bytes() == b"mine"
    written = list_files(tmp_path)
    assert call("encode", speech, "other.wav")[:2] == (0, "")
    assert list_files(tmp_path) == written
    assert call("encode", speech, "--force")[0] == 0
    assert Tokens.load(tmp_path / "speech.sct").samples == 16_000


def test_an_output_that_the_user_names_is_not_another_recordings(call, fails, speech, tmp_path):
    """A token file does not state its recording, so one that exists may be of another recording."""
    soundfile.write(tmp_path / "other.wav", SECOND[:8000], 16_000)
    assert call("encode", speech, "-o", "a.sct")[0] == 0
    for source in ("other.wav", "-"):
        fails("encode", source, "-o", "a.sct", stdin=tmp_path / "other.wav", words=["a.sct", "exists", "-o", "--force"])
    code, out, _ = call("encode", "other.wav", "-o", "a.sct", "--json")
    assert (code, [file["status"] for file in json.loads(out)["files"]]) == (1, ["failed"])
    assert Tokens.load(tmp_path / "a.sct").samples == 16_000
    assert call("encode", "other.wav", "-o", "a.sct", "--force")[0] == 0
    assert Tokens.load(tmp_path / "a.sct").samples == 8000
    assert call("decode", "a.sct", "-o", "a.wav", *QUICK)[0] == 0
    for command in (("decode", "a.sct"), ("roundtrip", "other.wav")):
        fails(*command, "-o", "a.wav", *QUICK, words=["a.wav", "exists", "--force"])
    assert call("encode", "other.wav", "-o", "out/")[0] == 0
    (tmp_path / "deep").mkdir()
    shutil.copy(speech, tmp_path / "deep" / "other.wav")
    code, out, err = call("encode", "deep/other.wav", "-o", "out/")  # a folder: the run over a collection goes on
    assert (code, out) == (0, "")
    assert err.startswith("kept out/other.sct, so deep/other.wav was not read")


def test_two_inputs_never_share_an_output(fails, speech, tmp_path):
    soundfile.write(tmp_path / "speech.flac", SECOND, 16_000)
    fails("encode", "speech.wav", "speech.flac", words=["speech.wav", "speech.flac", "speech.sct"])
    fails("encode", ".", words=["speech.wav", "speech.flac", "speech.sct"])
    fails("encode", "speech.wav", "speech.flac", "-o", "one.sct", words=["one.sct", "folder"])
    fails("encode", "speech.wav", "-", words=["-"])


def test_a_missing_input_is_not_kept(fails, tmp_path):
    (tmp_path / "gone.sct").write_bytes(b"mine")
    fails("encode", "gone.wav", words=["gone.wav", "No such file", "check its name"])


def test_an_input_named_twice_is_encoded_once(call, speech):
    code, out, err = call("encode", "speech.wav", "./speech.wav", ".")
    assert (code, len(out.splitlines()), err) == (0, 1, "")


def test_names_of_any_characters(call, tmp_path):
    name = "a [bold]b[bold] :cat:\nc\x1b[31m é.wav"
    soundfile.write(tmp_path / name, SECOND, 16_000)
    code, out, err = call("encode", name)
    assert (code, len(out.splitlines()), err) == (0, 1, "")
    assert "[bold]b[bold] :cat:\\nc\\x1b" in out
    assert (tmp_path / name.replace(".wav", ".sct")).is_file()


# --- pipes and terminals ---------------------------------------------------------------------------------------


def test_a_pipe_from_sound_to_sound(program_run, speech, tmp_path):
    encoded = program_run("encode", "-", input=speech.read_bytes())
    assert (encoded.returncode, encoded.stderr) == (0, b"")
    assert Tokens.from_bytes(encoded.stdout).samples == 16_000
    decoded = program_run("decode", "-", *QUICK, input=encoded.stdout)
    assert (decoded.returncode, decoded.stderr) == (0, b"")
    (tmp_path / "out.wav").write_bytes(decoded.stdout)
    assert soundfile.info(tmp_path / "out.wav").frames == 16_000


def test_npy_from_standard_input(call, tmp_path):
    np.save(tmp_path / "tokens.npy", CODES)
    code, _, err = call("decode", "-", "-o", "out.wav", *QUICK, stdin=tmp_path / "tokens.npy")
    assert (code, err) == (0, "")
    assert soundfile.info(tmp_path / "out.wav").frames == 18_560


@pytest.mark.parametrize("given", [b"", b"no audio at all" * 20, b"SCTK", b"\x93NUMPY"])
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_nonsense_on_standard_input(fails, tmp_path, command, given):
    (tmp_path / "given").write_bytes(given)
    fails(command, "-", "-o", "out.sct" if command == "encode" else "out.wav", stdin=tmp_path / "given")


@POSIX
@pytest.mark.parametrize("arguments", [["encode", "speech.wav", "-o", "-"], ["info", "speech.wav", "--json"]])
def test_a_closed_pipe_is_no_error(speech, environment, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "sc_runtime.cli", *arguments]
    with os.fdopen(writing, "wb") as stdout:
        result = subprocess.run(command, cwd=speech.parent, env=environment, stdout=stdout, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr == b""


@POSIX
def test_progress_is_for_terminals(tokens, environment, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sc_runtime.cli", "decode", "tokens.sct", "gone.sct", *QUICK, "--steps", "25"]
    with os.fdopen(theirs, "wb") as stderr:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=stderr
        )
    shown = b""
    try:
        while part := os.read(ours, 65_536):
            shown += part
    except OSError:  # the other end is closed
        pass
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(rb"window 1/1, step \d+/25", shown)  # the step depends on the time of the drawing
    assert b"error: gone.sct" in shown
    assert out.startswith(b"tokens.decoded.wav: ")
    assert b"\x1b" not in out


# --- what is printed ----------------------------------------------------------------------------------------------


def test_json_of_encode_and_decode(call, speech, tmp_path, tiny_bundle):
    (tmp_path / "kept.sct").write_bytes(b"mine")
    shutil.copy(speech, tmp_path / "kept.wav")
    code, out, _ = call("encode", "speech.wav", "kept.wav", "gone.wav", "--json")
    document = json.loads(out)
    assert code == 1
    assert (document["bundle"], document["codec"]) == (str(tiny_bundle), "semanticodec")
    assert [file["status"] for file in document["files"]] == ["written", "kept", "failed"]
    written = document["files"][0]
    assert (written["input"], written["output"]) == ("speech.wav", "speech.sct")
    assert (written["codec"], written["tps"], written["sample_rate"]) == ("semanticodec", 50, 16_000)
    assert (written["positions"], written["tokens"], written["samples"]) == (29, 58, 16_000)
    assert written["vocabularies"] == {"semantic": 32768, "acoustic": 8192}
    assert written["bytes"] == (tmp_path / "speech.sct").stat().st_size
    assert "gone.wav" in document["files"][2]["error"]

    code, out, err = call("decode", "speech.sct", "-o", "new.wav", "--json", "--seed", 5, *QUICK)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["steps"], document["seed"], document["files"][0]["output"]) == (1, 5, "new.wav")
    assert (document["codec"], document["preset"], document["solver"]) == ("semanticodec", "reference", "ddim")

    (tmp_path / "new.wav").rename(tmp_path / "speech.decoded.wav")
    code, out, err = call("decode", "speech.sct", "--json")  # kept: nothing is decoded
    document = json.loads(out)
    assert (code, document["files"][0]["status"]) == (0, "kept")
    assert {name: document[name] for name in ("preset", "steps", "guidance", "eta", "solver", "seed")} == {
        "preset": "reference",
        "steps": 50,
        "guidance": 2.0,
        "eta": 1.0,
        "solver": "ddim",
        "seed": 0,
    }


def test_json_and_sound_do_not_share_a_stream(fails, speech):
    fails("encode", "speech.wav", "-o", "-", "--json", words=["--json"])


def test_roundtrip(call, speech, tmp_path):
    code, out, err = call("roundtrip", speech, *QUICK)
    assert (code, err) == (0, "")
    assert soundfile.info(tmp_path / "speech.roundtrip.wav").frames == 16_000
    for word in ("29 positions", "0.7 kbps", "encode took", "decode took", "of real time"):
        assert word in out
    code, out, err = call("roundtrip", speech, "-o", "b.wav", "--json", *QUICK)
    record = json.loads(out)["files"][0]
    assert record["decode"]["real_time_factor"] == pytest.approx(record["decode"]["seconds"])
    assert call("roundtrip", speech, *QUICK)[:2] == (0, "")


def test_the_chosen_bundle_is_named_if_the_user_named_none(call, speech, tiny_bundle, monkeypatch):
    monkeypatch.delenv("SC_RUNTIME_BUNDLE")
    monkeypatch.setattr("sc_runtime.bundle.locate.bundles_folder", lambda: tiny_bundle.parent)
    monkeypatch.setattr("sc_runtime.bundle.locate.list_bundles", lambda folder=None: [tiny_bundle])
    code, _, err = call("encode", speech)
    assert (code, err) == (0, "bundle: embedded, checkpoint embedded (no published one is built)\n")
    monkeypatch.setattr("sc_runtime.bundle.locate.is_candidate", lambda path: True)
    code, _, err = call("encode", speech, "--force")
    assert (code, err) == (
        0,
        f"bundle: {tiny_bundle.name}, stand-in weights, seed 1 (the newest built; choose with --bundle)\n",
    )
    code, _, err = call("encode", speech, "--force", "--bundle", tiny_bundle.name)
    assert (code, err) == (0, "")


def test_info(call, speech, tokens, tmp_path, tiny_bundle):
    np.save(tmp_path / "codes.npy", CODES)
    for name, words in {
        "speech.wav": ["16000 Hz", "1.000 s", "58", "0.31 kbps", "1.40 kbps"],
        "tokens.sct": ["semanticodec", "4096 semantic", "29 (58 tokens)", "725 bits", "119 bytes", "0.62 kbps"],
        "codes.npy": [
            "29 (58 tokens)",
            "2.320 s",
            "0.580 s",
            f"semantic {CODES[:, 0].max()}",
            "semanticodec at 25 tps",
        ],
        str(tiny_bundle): ["semanticodec", "4096 or 32768 semantic", "stand-in weights", "tunet_step", "hifigan"],
    }.items():
        code, out, err = call("info", name)
        assert (code, err) == (0, "")
        for word in words:
            assert word in out
    read = {name: json.loads(call("info", name, "--json")[1]) for name in ("speech.wav", "tokens.sct", "codes.npy")}
    assert [read[name]["kind"] for name in read] == ["audio", "tokens", "array"]
    assert read["tokens.sct"]["bitrate"] == 625
    bundle = json.loads(call("info", tiny_bundle, "--json")[1])
    assert bundle["vocabularies"] == {"semantic": 32768, "acoustic": 8192}
    assert (bundle["choices"], bundle["codec"], bundle["sample_rate"]) == ([4096, 32768], "semanticodec", 16_000)
    assert (bundle["precision"], bundle["settings"]["tps"]) == ("float32", 50)


def test_info_of_tokens_of_either_codec(call, tokens, tmp_path):
    """An .sct states its codec. The columns of an .npy show it, or that no codec has so many."""
    unified = Tokens.from_array(np.arange(75)[:, np.newaxis], UniCodecConfig(), samples=24_000)
    unified.save(tmp_path / "unified.sct")
    unified.save(tmp_path / "unified.npy")
    code, out, _ = call("info", "unified.sct")
    assert code == 0
    for word in ("unicodec", "75 tokens a second, of sound at 24000 Hz", "16384 unified", "1.000 s", "1.05 kbps"):
        assert word in out
    said = json.loads(call("info", "unified.sct", "--json")[1])
    assert (said["codec"], said["sample_rate"], said["vocabularies"]) == ("unicodec", 24_000, {"unified": 16384})
    assert (said["positions"], said["tokens"], said["bits"], said["samples"]) == (75, 75, 14 * 75, 24_000)
    assert said["bytes"] == (tmp_path / "unified.sct").stat().st_size
    assert json.loads(call("info", tokens, "--json")[1])["codec"] == "semanticodec"
    said = json.loads(call("info", "unified.npy", "--json")[1])
    assert (said["largest"], said["seconds"]) == ({"unified": 74}, {"unicodec at 75 tps": 1.0})
    np.save(tmp_path / "eight.npy", np.zeros((9, 8), int))
    code, out, err = call("info", "eight.npy")
    assert (code, out) == (1, "")
    assert "shape [9, 8]; expected [T, 2] of semanticodec or [T, 1] of unicodec" in err


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_unicodec"])
def test_info_predicts_the_tokens_of_encoding(call, speech, bundle, request):
    bundle = request.getfixturevalue(bundle)
    expected = json.loads(call("info", speech, "--json")[1])["tokens"]
    assert call("encode", speech, "--bundle", bundle)[0] == 0
    made = json.loads(call("info", "speech.sct", "--json")[1])
    config = ("codec", "tps", "sample_rate", "vocabularies")
    (row,) = [row for row in expected if all(row[name] == made[name] for name in config)]
    assert row == {name: made[name] for name in (*config, "positions", "tokens", "bytes", "bitrate")}


def test_info_of_audio_has_a_row_for_every_codec_and_rate(call, speech):
    said = json.loads(call("info", speech, "--json")[1])
    assert (said["sample_rate"], said["samples"], said["seconds"]) == (16_000, {"16000": 16_000, "24000": 24_000}, 1)
    rows = [(row["codec"], row["tps"], *row["vocabularies"].values()) for row in said["tokens"]]
    semantic = [("semanticodec", tps, vocab, 8192) for tps in (25, 50, 100) for vocab in (4096, 32768)]
    assert rows == [*semantic, ("unicodec", 75, 16384)]


def test_doctor(call, tiny_bundle):
    code, out, err = call("doctor")
    assert (code, err) == (0, "")
    for word in ("python", "numpy", "onnxruntime", "works", "extra", str(tiny_bundle)):
        assert word in out
    document = json.loads(call("doctor", "--json")[1])
    assert document["works"]
    assert document["bundles"]["chosen"] == str(tiny_bundle)


def test_doctor_names_the_codec_of_each_bundle(call, tiny_bundle, tiny_unicodec, tmp_path, monkeypatch):
    folder = tmp_path / "bundles"
    for name, bundle in (("one", tiny_bundle), ("two", tiny_unicodec), ("three", tiny_bundle)):
        shutil.copytree(bundle, folder / name)
    raw = load_manifest(folder / "three")
    (folder / "three" / MANIFEST).write_text(json.dumps(raw | {"codec": "abacus"}))
    monkeypatch.setattr("sc_runtime.bundle.locate.bundles_folder", lambda: folder)
    code, out, err = call("doctor")
    assert (code, err) == (0, "")
    for words in ("semanticodec, 50 tps, vocabulary 4096 or 32768", "unicodec, 75 tps, vocabulary 16384", "'abacus'"):
        assert words in out
    found = {bundle["name"]: bundle for bundle in json.loads(call("doctor", "--json")[1])["bundles"]["found"]}
    said = {name: (found[name]["codec"], found[name]["tps"], found[name]["vocabularies"]) for name in found}
    assert said == {
        "one": ("semanticodec", 50, [4096, 32768]),
        "two": ("unicodec", 75, [16384]),
        "three": (None, None, []),
    }
    assert "codec 'abacus'; expected one of semanticodec, unicodec" in found["three"]["problem"]
    assert found["one"]["problem"] is found["two"]["problem"] is None


def test_doctor_where_nothing_works(call, monkeypatch, tmp_path):
    monkeypatch.setattr("sc_runtime.cli.examine.ABSENCES", {"onnxruntime": lambda: "pip install 'sc-runtime[cpu]'"})
    monkeypatch.setenv("SC_RUNTIME_BUNDLE", str(tmp_path / "gone"))
    code, out, err = call("doctor")
    assert (code, err) == (1, "")
    assert "pip install 'sc-runtime[cpu]'" in out
    assert "gone" in out
    document = json.loads(call("doctor", "--json")[1])
    assert not document["works"]
    assert document["bundles"]["chosen"] is None


def test_doctor_without_a_folder_for_bundles(call, monkeypatch):
    """An installed package, and neither a home folder nor $XDG_CACHE_HOME."""
    reason = "no cache folder for bundles; expected HOME or XDG_CACHE_HOME"

    def refuse() -> Path:
        raise BundleError("no cache folder for bundles", "HOME or XDG_CACHE_HOME", "name the bundle's folder")

    for module in ("sc_runtime.cli.examine", "sc_runtime.bundle.locate"):
        monkeypatch.setattr(f"{module}.bundles_folder", refuse)
    code, out, err = call("doctor")
    assert (code, err) == (0, "")  # the embedded model works
    assert reason in out
    assert json.loads(call("doctor", "--json")[1])["bundles"]["folder"].startswith(reason)


# --- folders, inputs and outputs -------------------------------------------------------------------------------


def test_decoding_a_folder_leaves_the_recordings_alone(call, speech, tmp_path):
    """`encode d; decode d`, twice. The original is neither the output nor replaced, and no output is encoded."""
    (tmp_path / "d").mkdir()
    speech.rename(tmp_path / "d" / "a.wav")
    original = (tmp_path / "d" / "a.wav").read_bytes()
    for force in ([], ["--force"]):
        assert call("encode", "d", *force)[0] == 0
        code, out, err = call("decode", "d", *QUICK, *force)
        assert (code, err) == (0, "")
        assert out.startswith("d/a.decoded.wav: 1.00 s")
        assert list_files(tmp_path / "d").keys() == {"a.wav", "a.sct", "a.decoded.wav"}
        assert (tmp_path / "d" / "a.wav").read_bytes() == original
    code, _, err = call("encode", "d", "--force")
    assert (code, err) == (0, "note: d: left out 1 earlier output\n")
    assert call("decode", "d", "-o", "d", *QUICK)[2].startswith("kept d/a.decoded.wav")


def test_an_input_is_never_an_output(fails, speech, tokens, tmp_path, monkeypatch):
    """Whatever the spelling or link, and whether it is forced or not."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "linked.wav").symlink_to(speech)
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "hard.wav").hardlink_to(speech)
    (tmp_path / "tokens.wav").hardlink_to(tokens)
    for force in ([], ["--force"]):
        for name in ("speech.wav", "./speech.wav", "sub/../speech.wav", speech, "linked.wav", "linked/speech.wav"):
            fails("roundtrip", "speech.wav", "-o", name, *QUICK, *force, words=["the input speech.wav", "-o"])
        fails("roundtrip", "speech.wav", "-o", "hard.wav", *QUICK, *force, words=["the input speech.wav"])
        fails("roundtrip", "-", "-o", "hard.wav", *QUICK, *force, stdin=speech, words=["the input standard input"])
        fails("decode", "tokens.sct", "-o", "tokens.wav", *QUICK, *force, words=["the input tokens.sct"])
        fails("encode", "tokens.sct", *force, words=["the input tokens.sct"])
    fails("decode", "speech.wav", words=["speech.wav", "tokens in an .sct or .npy file"])


def test_a_pair_of_one_stem_is_reported_and_the_rest_is_done(call, speech, tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("d/a.wav", "d/a.flac", "d/b.wav", "d/c.wav", "d/c.aiff", "d/c.au"):
        soundfile.write(tmp_path / name, SECOND, 16_000)
    code, _, err = call("encode", "d")
    assert code == 1
    assert err.splitlines() == [
        "error: d/a.flac and d/a.wav would both become d/a.sct; expected one output for each input: "
        "name them one at a time, with -o",
        "error: d/c.aiff and d/c.au and d/c.wav would all become d/c.sct; expected one output for each input: "
        "name them one at a time, with -o",
    ]
    assert [path.name for path in (tmp_path / "d").glob("*.sct")] == ["b.sct"]


def test_two_spellings_of_one_output_are_one(call, speech, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").symlink_to(tmp_path / "x")
    for name in ("x/a.wav", "x/a.flac"):
        soundfile.write(tmp_path / name, SECOND, 16_000)
    code, _, err = call("encode", "x/a.wav", "y/a.flac")
    assert code == 1
    assert "x/a.wav and y/a.flac would both become x/a.sct" in err


def test_a_folder_scan_states_what_it_leaves_out(call, speech, tmp_path):
    (tmp_path / "d" / ".hidden").mkdir(parents=True)
    shutil.copy(speech, tmp_path / "d" / "a.wav")
    shutil.copy(speech, tmp_path / "d" / ".hidden" / "b.wav")
    for name in ("c.m4a", "d.webm", "e.m4a", "f.txt"):
        (tmp_path / "d" / name).touch()
    (tmp_path / "d" / "linked").symlink_to(tmp_path)
    (tmp_path / "d" / "broken.wav").symlink_to("nothing")
    code, out, err = call("encode", "d")
    left_out = "1 broken link, 1 hidden folder, 1 linked folder, 2 unreadable .m4a files, 1 unreadable .webm file"
    assert (code, err) == (0, f"note: d: left out {left_out}\n")
    assert out.startswith("d/a.sct: ")
    (tmp_path / "d" / "a.sct").rename(tmp_path / "d" / ".hidden" / "a.sct")
    code, _, err = call("decode", "d")
    assert (code, err.count("\n")) == (1, 1)
    assert "d: no tokens in this folder (left out 1 hidden folder, 1 linked folder)" in err


def test_a_folder_that_cannot_be_listed_fails(call, speech, tmp_path, monkeypatch):
    (tmp_path / "d" / "locked").mkdir(parents=True)
    shutil.copy(speech, tmp_path / "d" / "a.wav")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder
    code, out, err = call("encode", "d")
    assert (code, err.count("\n")) == (1, 1)
    assert "error: d/locked: Permission denied" in err
    assert out.startswith("d/a.sct: ")


def test_truncated_files_may_be_allowed(call, fails, speech, tmp_path):
    data = speech.read_bytes()
    speech.write_bytes(data[: len(data) // 2])
    for command in ("encode", "info", "roundtrip"):
        fails(command, "speech.wav", words=["truncated, 15978 bytes of 32000", "--allow-truncated"])
    code, out, err = call("encode", "speech.wav", "--allow-truncated")
    assert (code, err) == (0, "note: speech.wav: truncated, 15978 bytes of 32000\n")
    assert out.startswith("speech.sct: 0.50 s")
    assert json.loads(call("info", "speech.wav", "--allow-truncated", "--json")[1])["samples"]["16000"] == 7989
    assert call("roundtrip", "speech.wav", "--allow-truncated", *QUICK)[0] == 0


def test_floats_that_are_not_scaled_are_noted(call, tmp_path):
    soundfile.write(tmp_path / "loud.wav", SECOND * 32_768, 16_000, "FLOAT")
    for command in (["encode", "loud.wav"], ["info", "loud.wav"]):
        code, _, err = call(*command)
        assert (code, err.count("\n")) == (0, 1)
        assert err.startswith("note: loud.wav: a sample of ")


def test_info_of_standard_input(call, fails, speech, tokens, tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    soundfile.write(tmp_path / "a.flac", SECOND, 16_000)
    for name in ("speech.wav", "a.flac", "tokens.sct", "codes.npy"):
        code, out, err = call("info", "-", "--json", stdin=tmp_path / name)
        assert (code, err) == (0, "")
        expected = json.loads(call("info", name, "--json")[1])
        assert json.loads(out) == {**expected, "path": "standard input"}
    (tmp_path / "text").write_text("no audio " * 100)
    fails("info", "-", stdin=tmp_path / "text", words=["not audio"])
    fails("info", "-", stdin=Path(os.devnull), words=["empty"])


# --- bad input -------------------------------------------------------------------------------------------------


def write_bad_audio(folder: Path) -> None:
    whole = folder / "whole.wav"
    soundfile.write(whole, SECOND, 16_000)
    data = whole.read_bytes()
    whole.unlink()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "truncated.wav").write_bytes(data[:9000])
    (folder / "text.wav").write_bytes(b"This is no audio.\n" * 50)
    soundfile.write(folder / "none.wav", SECOND[:0], 16_000)
    damaged = SECOND.copy()
    damaged[8000] = np.nan
    soundfile.write(folder / "nan.wav", damaged, 16_000, "FLOAT")
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.txt").write_text("no audio here")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.wav", "No such file"),
        ("empty.wav", "empty"),
        ("truncated.wav", "truncated"),
        ("text.wav", "not audio"),
        ("none.wav", "no samples"),
        ("nan.wav", "nan"),
        ("folder", "no audio"),
        ("", "name"),
    ],
)
def test_bad_audio(fails, tmp_path, name, word):
    write_bad_audio(tmp_path)
    fails("encode", name, words=[name, word])
    fails("roundtrip", name, words=[name])
    if name:
        fails("info", name, words=[name])


def write_bad_tokens(folder: Path) -> None:
    config = SemantiCodecConfig(50, 4096)
    data = Tokens.from_array(CODES, config, samples=16_000).to_bytes()

    def rewrite(offset, kind, value):
        """`data` with another header field and the CRC that belongs to it."""
        changed = bytearray(data)
        struct.pack_into(kind, changed, offset, value)
        struct.pack_into("<I", changed, 20, zlib.crc32(changed[:20] + changed[24:]))
        return bytes(changed)

    flipped = bytearray(data)
    flipped[60] ^= 4
    files = {
        "empty.sct": b"",
        "flipped.sct": bytes(flipped),
        "short.sct": data[:-1],
        "header.sct": data[:20],
        "trailing.sct": data + b"\0",
        "future.sct": rewrite(4, "B", 3),
        "past.sct": rewrite(4, "B", 1),
        "codec.sct": rewrite(5, "B", 9),
        "codebooks.sct": rewrite(7, "B", 1),
        "billion.sct": rewrite(8, "<I", 1_000_000_000),
        "text.sct": b"These are no tokens.\n",
        "rate.sct": Tokens.from_array(CODES, SemantiCodecConfig(25, 4096)).to_bytes(),
        "vocabulary.sct": Tokens.from_array(CODES, SemantiCodecConfig(50, 8192)).to_bytes(),
        "other.sct": Tokens.from_array(CODES[:, :1], UniCodecConfig()).to_bytes(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    arrays = {
        "range.npy": CODES + np.array([32768, 0]),
        "negative.npy": CODES - 5000,
        "acoustic.npy": CODES + np.array([0, 8192]),
        "shape.npy": CODES.T,
        "batch.npy": np.stack([CODES, CODES]),
        "nothing.npy": CODES[:0],
        "float.npy": CODES.astype(np.float32),
        "pickled.npy": np.array([{"semantic": 1}], dtype=object),
    }
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "range.npy").read_bytes()[:-5])
    (folder / "folder").mkdir()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.sct", "No such file"),
        ("missing.npy", "No such file"),
        ("empty.sct", "cut short"),
        ("flipped.sct", "checksum"),
        ("short.sct", "cut short"),
        ("header.sct", "cut short"),
        ("trailing.sct", "trailing"),
        ("future.sct", "version 3"),
        ("past.sct", "encode the audio again"),
        ("codec.sct", "codec 9; expected one of 0 semanticodec, 1 unicodec"),
        ("codebooks.sct", "1 codebooks"),
        ("billion.sct", "1000000000 positions"),
        ("text.sct", "tokens in an .sct or .npy file"),
        ("rate.sct", "25 tps"),
        ("vocabulary.sct", "8192"),
        ("other.sct", "tokens of unicodec; expected tokens of semanticodec"),
        ("range.npy", "32768"),
        ("negative.npy", "semantic token -"),
        ("acoustic.npy", "acoustic token"),
        ("shape.npy", "shape"),
        ("batch.npy", "shape"),
        ("nothing.npy", "shape"),
        ("float.npy", "float32"),
        ("pickled.npy", "pickled"),
        ("cut.npy", "cut short"),
        ("folder", "no tokens"),
    ],
)
def test_bad_tokens(fails, tmp_path, name, word):
    write_bad_tokens(tmp_path)
    fails("decode", name, *QUICK, words=[name, word])
    if name not in (
        "rate.sct",
        "vocabulary.sct",
        "other.sct",
        "range.npy",
        "acoustic.npy",
    ):  # valid, for another bundle
        fails("info", name, words=[name])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--steps", "0"], "0 steps"),
        (["--steps", "3"], "use 2"),
        (["--steps", "1001"], "1001 steps"),
        (["--guidance", "nan"], "guidance"),
        (["--eta", "1.5"], "eta"),
        (["--seed", "-1"], "seed"),
        (["--vocab", "5"], "vocabulary 5"),
        (["--threads", "0"], "threads"),
        (["--backend", "abacus"], "abacus"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_settings_that_cannot_work_end_the_run_at_once(fails, tokens, tmp_path, arguments, word):
    shutil.copy(tokens, tmp_path / "second.sct")
    fails("decode", "tokens.sct", "second.sct", *arguments, words=[word])


def test_options_of_another_codec_end_the_run_at_once(fails, speech, tokens, tiny_unicodec):
    words = ["domain speech", "semanticodec", "leave it out"]
    fails("encode", "speech.wav", "other.wav", "--domain", "speech", words=words)
    fails("roundtrip", "speech.wav", "--domain", "speech", words=words)
    words = ["preset fast", "unicodec", "leave it out"]
    fails("decode", "tokens.sct", "--preset", "fast", "--bundle", tiny_unicodec, words=words)


@pytest.fixture
def damage(tiny_bundle, tmp_path):
    """A copy of the bundle, for the test to damage."""
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy, ignore=shutil.ignore_patterns(".verified.json"))
    return copy


def test_damaged_bundles(call, tokens, speech, damage, tmp_path):
    """A graph or codebook that is missing, cut, altered or swapped; a manifest that is not one."""
    graph, codebook, manifest = damage / "hifigan.onnx", damage / "semantic-32768.npy", damage / "manifest.json"
    recipe = "sc-runtime build --tps 50 --vocab 4096,32768 --seeded 1 --size tiny"
    rebuild = f": rebuild it: {recipe} --out {damage} --force"
    again = "; expected a manifest of format 2: build the bundle again with this version: sc-runtime build"

    def expect(command, source, given, remedy=rebuild):
        arguments = ["out.sct"] if command == "encode" else ["out.wav", *QUICK]
        code, out, err = call(command, source, "--bundle", damage, "-o", *arguments)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1, err
        assert err.startswith(f"error: {given}")
        assert err.endswith(f"{remedy}\n")
        assert not list(tmp_path.glob("out.*"))
        assert not list(tmp_path.glob(".*"))

    for file, source, command in ((graph, tokens, "decode"), (codebook, speech, "encode")):
        whole = file.read_bytes()
        altered = bytearray(whole)
        altered[len(whole) // 2] ^= 1
        digest = sha256(whole).hexdigest()[:12]
        file.unlink()
        expect(command, source, f"{file} is missing; expected {len(whole)} bytes")
        file.write_bytes(whole[:-1])
        expect(command, source, f"{file} holds {len(whole) - 1} bytes; expected {len(whole)} bytes")
        file.write_bytes(altered)
        expect(command, source, f"{file} has been altered or swapped; expected SHA-256 {digest}…")
        file.write_bytes(whole)

    other, decoder = damage / "swapped", damage / "vae_decoder.onnx"
    graph.rename(other)
    decoder.rename(graph)
    other.rename(decoder)
    expect("decode", tokens, f"{graph} holds {graph.stat().st_size} bytes; expected {decoder.stat().st_size} bytes")

    text = manifest.read_text()
    for changed, reason in (
        ("", "EOF while parsing a value"),
        ("{", "EOF while parsing an object"),
        ("[]", "no JSON object"),
        (text.replace('"format": 2', '"format": 3'), "manifest format 3, this version reads 2"),
        (text.replace('"tps"', '"rate"'), "the manifest has been altered"),
    ):
        manifest.write_text(changed)
        expect("decode", tokens, f"{manifest}: ValueError {reason}", again)
    manifest.unlink()
    missing = "; expected the folder of a built bundle: sc-runtime build --tps 50"
    expect("decode", tokens, f"{damage}: no readable manifest.json", missing)


# --- outputs that cannot be written ----------------------------------------------------------------------------


def test_impossible_outputs(fails, speech, tokens, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.sct").mkdir()
    fails("encode", "speech.wav", "-o", "nowhere/out.sct", words=["nowhere"])
    for inputs in (["speech.wav"], ["."]):
        for name in ("file/out.sct", "file/deep/out.sct", "file/", "file/deep/"):
            if inputs == ["."] and not name.endswith("/"):
                continue
            fails("encode", *inputs, "-o", name, words=["file is a file; expected a folder", "-o"])
    fails("demo", "-o", "file/demo", words=["file/demo", "name another with -o"])
    fails("encode", "speech.wav", "-o", "out.mp4", words=["out.mp4", ".sct"])
    fails("encode", "speech.wav", "-o", "out", words=["out", ".sct"])
    fails("decode", "tokens.sct", "-o", "out.mp3", words=["out.mp3", ".wav"])
    fails("encode", "speech.wav", "tokens.sct", "-o", "file", words=["file", "folder"])
    fails("encode", "-", "-o", "folder.sct", words=["folder.sct"])
    (tmp_path / "speech.sct").mkdir()
    fails("encode", "speech.wav", words=["speech.sct", "folder"])


@POSIX
def test_a_folder_without_permission(fails, speech, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda *_: False)
    fails("encode", "speech.wav", "-o", "locked/out.sct", words=["locked"])


@POSIX
@pytest.mark.parametrize(
    "arguments", [["encode", "speech.wav", "-o", "out.sct"], ["decode", "tokens.sct", "-o", "out.wav", *QUICK]]
)
def test_a_full_disk(program_run, speech, tokens, tmp_path, arguments):
    """A limit on the size of files stands for it."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    before = list_files(tmp_path)
    result = program_run(*arguments, preexec_fn=limit)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(b"error: out.") or b": out." in result.stderr
    assert list_files(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["encode", "speech.wav", "-o", "-"], ["decode", "tokens.sct", "-o", "-", *QUICK], ["doctor"]]
)
def test_a_full_standard_output(program_run, speech, tokens, arguments):
    with Path("/dev/full").open("wb") as full:
        result = program_run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert b"No space left" in result.stderr


@POSIX
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, b"interrupted\n"), (signal.SIGTERM, 143, b"")]
)
def test_interrupted(tokens, environment, tmp_path, number, code, said):
    """A signal in the middle of decoding leaves neither an output nor a temporary file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sc_runtime.cli", "decode", "tokens.sct", "-o", "out/", *QUICK, "--steps", "500"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background run of tests ignores it
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/.*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (code, b"", said)
    assert list_files(tmp_path).keys() == {"tokens.sct", "out"}


def test_no_memory(fails, speech, monkeypatch):
    def encode(*_, **__):
        raise MemoryError

    monkeypatch.setattr("sc_runtime.codec.Codec.encode_many", encode)
    fails("encode", "speech.wav", words=["memory"])


def test_an_error_of_the_system(fails, speech, monkeypatch):
    def encode(*_, **__):
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("sc_runtime.codec.Codec.encode_many", encode)
    fails("encode", "speech.wav", words=["somewhere: Permission denied"])


def test_caches_are_shown_and_emptied(call, tmp_path, monkeypatch):
    """Files that the program did not write there stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "sc-runtime" / "bundles" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    Cache("openvino", ".blob").write("key", b"x" * 3_000_000)
    code, out, err = call("caches")
    assert (code, err) == (0, "")
    assert re.search(r"openvino +1 +3\.0 MB", out)
    document = json.loads(call("caches", "--json")[1])
    assert {row["name"]: row["bytes"] for row in document["caches"]}["openvino"] == 3_000_000
    assert "freed 3.0 MB" in call("caches", "--empty")[1]
    assert {row["bytes"] for row in json.loads(call("caches", "--json")[1])["caches"]} == {0}
    assert kept.read_text() == "mine"
