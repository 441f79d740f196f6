"""Caches are optional, checked and bounded. The program writes only its own files and looks up no address."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sc_runtime import Codec, caches
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.caches import Cache, make_key
from sc_runtime.errors import BackendError, OutputError
from tests.conftest import ROOT, flush_compiled

has_openvino = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not has_openvino, reason="openvino is not installed")
ROUND_TRIP = """
    import sys
    import numpy as np
    from sc_runtime import Codec
    codec = Codec.load(sys.argv[1])
    tokens = codec.encode(0.1 * np.random.default_rng(0).standard_normal(5000, np.float32))
    print(len(codec.decode(tokens, **({"steps": 1} if codec.bundle.manifest.codec == "semanticodec" else {}))))
"""


def list_compiled(home: Path) -> list[Path]:
    """The files of compiled graphs, all of which are written."""
    flush_compiled()
    return sorted((home / "openvino").iterdir())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's folder in a cache folder that belongs to this test."""
    flush_compiled()  # what another test compiled goes to another folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(caches, "_reported", set())
    return tmp_path / "cache" / "sc-runtime"


class Lines(logging.Handler):
    """The messages of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    caches.log.addHandler(handler)
    yield handler.lines
    caches.log.removeHandler(handler)


def run_python(code: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in another process with these environment variables; "" removes one."""
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)


# --- one cache --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(home: Path) -> None:
    cache = Cache("kernels", ".bin")
    assert cache.read("key") is None
    for data in (b"first", b"second", bytes(100_000)):
        cache.write("key", data)
        read = cache.read("key")
        assert read is not None
        assert read.tobytes() == data
        assert len(list((home / "kernels").iterdir())) == 1  # the one before is deleted
    assert cache.read("ke") is None
    assert Cache("kernels", ".other").read("key") is None


@pytest.mark.parametrize("damage", ["a bit", "cut", "emptied", "longer", "another's"])
def test_what_was_altered_is_deleted(home: Path, damage: str) -> None:
    cache = Cache("kernels", ".bin")
    cache.write("key", b"data")
    (file,) = (home / "kernels").iterdir()
    file.write_bytes(
        {"a bit": b"dat`", "cut": b"dat", "emptied": b"", "longer": b"data\0", "another's": b"else"}[damage]
    )
    assert cache.read("key") is None
    assert not file.exists()


def test_a_large_file_is_hashed_once_until_it_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written. The record is void when a byte is changed, or when another file lies there."""
    hashed: list[int] = []
    hash_data = caches.hash_data

    def count(data: bytes | memoryview) -> str:
        hashed.append(len(data))
        return hash_data(data)

    cache, size = Cache("kernels", ".bin"), caches.RECORDED_BYTES
    monkeypatch.setattr(caches, "hash_data", count)
    cache.write("key", bytes(size))
    for _ in range(3):
        read = cache.read("key")
        assert read is not None and not read.any() and len(read) == size
    assert hashed.count(size) == 1
    (file,) = (home / "kernels").iterdir()
    shutil.copyfile(file, file.with_suffix(".copy"))
    file.with_suffix(".copy").replace(file)
    for _ in range(3):
        assert cache.read("key") is not None
    assert hashed.count(size) == 2
    with file.open("r+b") as opened:
        opened.seek(size // 2)
        opened.write(b"x")
    assert cache.read("key") is None
    assert not file.exists()


def test_a_file_that_another_process_removes_at_once_is_no_failure(
    home: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Between its writing and the record that it was hashed. Older files of the key go all the same."""
    cache, size = Cache("kernels", ".bin"), caches.RECORDED_BYTES
    cache.write("key", b"older")
    write = caches.write_atomically

    def write_and_lose(path: Path, data: bytes | memoryview) -> None:
        write(path, data)
        if len(data) == size:
            path.unlink()

    monkeypatch.setattr(caches, "write_atomically", write_and_lose)
    cache.write("key", bytes(size))
    assert not list((home / "kernels").iterdir())
    assert not lines


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is of the file as it was before."""
    cache, size = Cache("kernels", ".bin"), caches.RECORDED_BYTES
    cache.write("key", bytes(size))
    (file,) = (home / "kernels").iterdir()
    shutil.copyfile(file, file.with_suffix(".copy"))
    file.with_suffix(".copy").replace(file)  # so that there is no record of it
    hash_data = caches.hash_data

    def change(data: bytes | memoryview) -> str:
        digest = hash_data(data)
        if len(data) == size:
            monkeypatch.setattr(caches, "hash_data", hash_data)
            with file.open("r+b") as opened:
                opened.write(b"x")
        return digest

    monkeypatch.setattr(caches, "hash_data", change)
    cache.read("key")
    assert cache.read("key") is None
    assert not file.exists()


def test_what_cannot_be_touched_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user, or a disk that cannot be written to."""
    cache = Cache("kernels", ".bin")
    cache.write("key", b"data")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.utime", refuse)
    for _ in range(2):
        data = cache.read("key")
        assert data is not None and data.tobytes() == b"data"


def test_the_files_that_were_used_longest_ago_are_deleted(home: Path) -> None:
    cache = Cache("kernels", ".bin", limit=5000)
    for number in range(5):
        cache.write(f"key{number}", bytes([number]) * 1000)
        (file,) = (home / "kernels").glob(f"key{number}.*")
        os.utime(file, (number, number))
    assert cache.read("key0") is not None  # now it is the latest used
    cache.write("key5", bytes(1500))
    assert sum(file.stat().st_size for file in (home / "kernels").iterdir()) <= 5000
    assert [number for number in range(6) if cache.read(f"key{number}") is not None] == [0, 3, 4, 5]


def test_the_bound_holds_for_all_caches_together(home: Path) -> None:
    for name in caches.NAMES:
        Cache(name, ".bin", limit=3000).write("key", bytes(1000))
    assert [usage.files for usage in caches.list_usage()] == [0, 1, 1, 1]
    assert sum(usage.bytes for usage in caches.list_usage()) == 3000


def test_caches_are_shown_and_emptied(home: Path) -> None:
    Cache("kernels", ".bin").write("key", bytes(10))
    Cache("openvino", ".bin").write("key", bytes(20))
    bundle = home / "bundles" / "mine" / "manifest.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("{}")
    outside = home.parent / "outside"
    outside.write_bytes(bytes(40))
    (home / "kernels" / "link").symlink_to(outside)
    assert {usage.name: (usage.files, usage.bytes) for usage in caches.list_usage()} == {
        "kernels": (1, 10),
        "openvino": (1, 20),
        "tensorrt": (0, 0),
        "verified": (0, 0),
    }
    assert caches.empty() == 30
    assert bundle.exists()
    assert outside.exists()
    assert not any(usage.files for usage in caches.list_usage())


# --- no cache ---------------------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_reported_once(home: Path, lines: list[str]) -> None:
    home.parent.write_text("a file where the folder would be")
    cache = Cache("kernels", ".bin")
    for _ in range(3):
        cache.write("key", b"data")
        assert cache.read("key") is None
    Cache("verified", ".json").write("key", b"data")  # the cause is the same one, so this is no second line
    assert lines == [f"nothing is kept in {home} (Not a directory)"]
    assert caches.empty() == 0
    home.parent.unlink()
    home.mkdir(parents=True)
    (home / "kernels").write_text("a file where one of the folders would be")
    for _ in range(2):
        cache.write("key", b"data")
        Cache("verified", ".json").write("key", b"data")
    assert lines[1:] == [f"nothing is kept in {home / 'kernels'} (File exists)"]


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, "."), (errno.EROFS, "."), (errno.EACCES, "kernels")])
def test_a_report_names_the_folder_of_all_caches_if_they_fail_alike(home: Path, number: int, named: str) -> None:
    (home / "kernels").mkdir(parents=True)
    failure = OutputError("a file", "one that can be written")
    failure.__cause__ = OSError(number, "x")
    for error in (failure, OSError(number, "x")):
        found = caches.describe_failure(home / "kernels", error)
        assert found == f"nothing is kept in {home / named} ({os.strerror(number)})"
    failure.__cause__ = None  # a link, for example
    assert caches.describe_failure(home / "kernels", failure).startswith(
        f"nothing is kept in {home / 'kernels'} (a file; "
    )


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_unicodec"])
def test_without_a_home_folder(bundle: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """No HOME, and no entry of the user in the system's list."""
    orphan = """
        import pwd
        def refuse(user):
            raise KeyError(f"getpwuid(): uid not found: {user}")
        pwd.getpwuid = refuse
    """
    code = textwrap.dedent(orphan) + textwrap.dedent(ROUND_TRIP)
    done = run_python(code, request.getfixturevalue(bundle), HOME="", XDG_CACHE_HOME="", SC_RUNTIME_BUNDLE="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5000\n"
    assert done.stderr.count("there is no cache folder") == 1
    assert len(done.stderr.splitlines()) == 1


def test_on_a_read_only_file_system(tiny_bundle: Path, tmp_path: Path) -> None:
    """The bundle, the cache folder and the home folder are on a file system that nothing can be written to."""
    folder = tmp_path / "mounted"
    shutil.copytree(tiny_bundle, folder / "bundle")
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("NOT RUN ON A READ-ONLY FILE SYSTEM: nothing can be mounted here")
    code = textwrap.dedent(ROUND_TRIP)
    command = f'{mount} && exec "{sys.executable}" -c \'{code}\' "{folder / "bundle"}"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5000\n"
    assert "Read-only file system" in done.stderr


# --- what uses them ---------------------------------------------------------------------------------------------------


def test_a_file_is_hashed_once_and_nothing_is_written_to_the_bundle(
    tiny_unicodec: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_unicodec, tmp_path / "copy"))
    (copy / ".verified.json").unlink(missing_ok=True)
    before = sorted(copy.iterdir())
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("sc_runtime.bundle.store.hash_file", count)
    for _ in range(3):
        Bundle.load(copy).load_codebook("unified")
    assert hashed == ["unified.npy"]
    moved = Path(shutil.copytree(copy, tmp_path / "moved"))
    Bundle.load(moved).load_codebook("unified")
    assert hashed == 2 * ["unified.npy"]
    caches.empty()
    bundle = Bundle.load(copy)
    bundle.load_codebook("unified")
    bundle.load_codebook("unified")
    assert hashed == 3 * ["unified.npy"]
    assert sorted(copy.iterdir()) == before


@needs_openvino
def test_a_compiled_graph_is_kept_and_used(tiny_bundle: Path, home: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    latent = np.random.default_rng(0).standard_normal((1, 8, 256, 16), np.float32)
    expected = choose_backend("openvino").open(bundle, "vae_decoder").run({"latent": latent})["mel"]
    (blob,) = list_compiled(home)
    stamp = blob.stat().st_mtime_ns, blob.stat().st_ino
    os.utime(blob, (1, 1))
    again = choose_backend("openvino").open(bundle, "vae_decoder").run({"latent": latent})["mel"]
    np.testing.assert_array_equal(again, expected)
    assert blob.stat().st_mtime > 1  # it was read
    assert blob.stat().st_ino == stamp[1]
    choose_backend("openvino", threads=1).open(bundle, "vae_decoder").run({"latent": latent})
    choose_backend("openvino").open(bundle, "vae_decoder").run({"latent": latent.repeat(2, axis=0)})
    assert len(list_compiled(home)) == 3  # other settings, and other shapes, are other graphs


@needs_openvino
def test_a_compiled_graph_is_written_after_it_is_used_or_when_the_process_ends(tiny_bundle: Path, home: Path) -> None:
    """The first sound does not wait for it. This process and one that ends write it under the same key."""
    code = """
        import sys
        from pathlib import Path
        from sc_runtime.backends.select import choose_backend
        from sc_runtime.bundle.store import Bundle
        graph = choose_backend("openvino").open(Bundle.load(Path(sys.argv[1])), "vae_decoder")
        graph.prepare({"latent": (1, 8, 256, 16)})
    """
    done = run_python(code, tiny_bundle)
    assert done.returncode == 0, done.stderr
    (blob,) = list_compiled(home)
    blob.unlink()
    choose_backend("openvino").open(Bundle.load(tiny_bundle), "vae_decoder").prepare({"latent": (1, 8, 256, 16)})
    assert not list(home.glob("openvino/*.blob"))
    assert [path.name.split(".")[0] for path in list_compiled(home)] == [blob.name.split(".")[0]]


@needs_openvino
def test_a_compiled_graph_is_written_while_the_process_goes_on(
    tiny_bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first run after some time. A process that is killed later has kept it."""
    from sc_runtime.backends.openvino.compiled import KEEPER

    now = [0.0]
    monkeypatch.setattr("sc_runtime.backends.openvino.compiled.time.monotonic", lambda: now[0])
    graph = choose_backend("openvino").open(Bundle.load(tiny_bundle), "vae_decoder")
    for number, kept in ((0.0, 0), (KEEPER.seconds - 1, 0), (KEEPER.seconds, 1), (KEEPER.seconds * 9, 1)):
        now[0] = number
        graph.run({"latent": np.zeros((1, 8, 256, 16), np.float32)})
        assert len(list(home.glob("openvino/*.blob"))) == kept


@needs_openvino
def test_an_altered_compiled_graph_is_compiled_again(tiny_bundle: Path, home: Path) -> None:
    """Unchecked, a few changed bytes gave sound of NaN, or ended the process."""
    bundle = Bundle.load(tiny_bundle)
    latent = np.random.default_rng(0).standard_normal((1, 8, 256, 16), np.float32)

    def run() -> np.ndarray:
        return choose_backend("openvino").open(bundle, "vae_decoder").run({"latent": latent})["mel"]

    expected = run()
    (blob,) = list_compiled(home)
    sound = blob.read_bytes()
    generator = np.random.default_rng(0)
    for damage in range(4):
        data = np.frombuffer(sound, np.uint8).copy()
        data[generator.integers(len(data), size=20)] ^= 0xFF
        blob.write_bytes(data.tobytes()[: len(data) // 2 if damage == 3 else None])
        np.testing.assert_array_equal(run(), expected)
        (blob,) = list_compiled(home)  # compiled again, and kept
        assert hash_file(blob)[:32] == blob.name.split(".")[1]


@needs_openvino
def test_a_kept_graph_that_openvino_refuses_is_compiled_again(
    tiny_bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is intact, but another OpenVINO wrote it."""
    bundle = Bundle.load(tiny_bundle)
    latent = np.zeros((1, 8, 256, 16), np.float32)
    graph = choose_backend("openvino").open(bundle, "vae_decoder")
    expected = graph.run({"latent": latent})["mel"]
    (blob,) = list_compiled(home)
    key = blob.name.split(".")[0]
    Cache("openvino", ".blob").write(key, b"another format")
    found = choose_backend("openvino").open(bundle, "vae_decoder").run({"latent": latent})["mel"]
    np.testing.assert_array_equal(found, expected)
    (blob,) = list_compiled(home)
    assert blob.stat().st_size > 1000


def test_keys_differ_where_anything_does() -> None:
    keys = {make_key(*parts) for parts in [("a", 1), ("a", "1"), ("a1",), ("a", 1, None), (("a", 1),)]}
    assert len(keys) == 5
    assert all(key.isalnum() for key in keys)


# --- privacy ----------------------------------------------------------------------------------------------------------

BLOCKED = """
    import socket
    def refuse(*arguments, **options):
        raise SystemExit(f"a look-up or a connection: {arguments}")
    socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
"""


def check_private(command: list[str], folder: Path) -> set[tuple[str, ...]]:
    """Run `command` in a new home folder. Returns the folders there that files were written to.

    Under strace, if there is one, no process of the command may open a connection or send to an address.
    """
    home, calls = folder / "home", folder / "calls"
    home.mkdir()
    traced = shutil.which("strace") is not None
    if traced:
        command = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-e",
            "trace=connect,sendto,sendmsg,sendmmsg",
            "-o",
            str(calls),
            *command,
        ]
    hidden = ("XDG_", "ORT_", "CI", "GITHUB_", "SC_RUNTIME_")  # which the libraries' reports depend on
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["HOME"] = str(home)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    if traced:
        assert not [line for line in calls.read_text().splitlines() if "AF_INET" in line]
    return {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "auto"] if has_openvino else ["onnxruntime"])
def test_nothing_is_looked_up_and_nothing_is_written_elsewhere(
    backend: str, tiny_unicodec: Path, tmp_path: Path
) -> None:
    """Encoding and decoding."""
    code = textwrap.dedent(BLOCKED) + textwrap.dedent(ROUND_TRIP).replace("argv[1])", f"argv[1], backend='{backend}')")
    assert check_private([sys.executable, "-c", code, str(tiny_unicodec)], tmp_path) == {(".cache", "sc-runtime")}


COMMAND = """
    import sys
    from sc_runtime.cli.app import main
    sys.argv[0] = "sc-runtime"
    main()
"""


@needs_openvino
def test_openvino_alone_leaves_traces(tmp_path: Path) -> None:
    """A control of the checks above: a plain import of OpenVINO writes a client id and a count to the home folder.

    Where this fails, OpenVINO has changed, and `sc_runtime.libraries` may not have to hide its telemetry any more.
    """
    pytest.importorskip("openvino_telemetry", exc_type=ImportError)
    code = textwrap.dedent(BLOCKED) + "import openvino\n"
    assert check_private([sys.executable, "-c", code], tmp_path) == {("intel", "openvino_ga_cid"), ("intel", "stats")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        pytest.param(["build", "--seeded", "1", "--size", "tiny", "--precision", "int8"], marks=pytest.mark.slow),
    ],
    ids=["doctor", "build"],
)
def test_commands_look_nothing_up(arguments: list[str], tmp_path: Path) -> None:
    """`build` with int8 also imports PyTorch and NNCF."""
    if "build" in arguments:
        pytest.importorskip("nncf")
        arguments = [*arguments, "--out", str(tmp_path / "bundle")]
    code = textwrap.dedent(BLOCKED) + textwrap.dedent(COMMAND)
    assert check_private([sys.executable, "-c", code, *arguments], tmp_path) <= {(".cache", "sc-runtime")}


def test_a_choice_of_the_user_is_left_alone() -> None:
    code = """
        import os
        from sc_runtime.libraries import import_onnxruntime
        import_onnxruntime()
        print(os.environ["ORT_DISABLE_TELEMETRY"])
    """
    assert run_python(code, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
    assert run_python(code, ORT_DISABLE_TELEMETRY="").stdout == "1\n"


@needs_openvino
def test_the_telemetry_package_is_hidden_only_while_openvino_is_imported() -> None:
    code = """
        import sys
        from sc_runtime.libraries import import_openvino
        import_openvino()
        assert "openvino_telemetry" not in sys.modules
        import openvino_telemetry
        assert import_openvino() is sys.modules["openvino"]
        assert sys.modules["openvino_telemetry"] is openvino_telemetry
    """
    pytest.importorskip("openvino_telemetry", exc_type=ImportError)
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_the_libraries_are_imported_in_one_place() -> None:
    wrong = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "runtime").rglob("*.py")
        if path.name != "libraries.py"
        for line in path.open()
        if line.strip().startswith(("import onnxruntime", "import openvino", "import platformdirs"))
        and path.name != "caches.py"
    ]
    assert not wrong


# --- values that are not finite ---------------------------------------------------------------------------------------


def test_sound_that_is_not_finite_is_an_error(tiny_unicodec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec.load(tiny_unicodec, backend="onnxruntime")
    tokens = codec.encode(np.zeros(5000, np.float32))
    run = codec.networks.run

    def spoil(graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        outputs = run(graph, **feeds)
        for array in outputs.values():
            array.flat[:] = np.nan
        return outputs

    monkeypatch.setattr(codec.networks, "run", spoil)
    with pytest.raises(BackendError, match="decoded samples that are not finite"):
        codec.decode(tokens)
    with pytest.raises(BackendError, match="query of norm nan"):
        codec.encode(np.zeros(5000, np.float32))
