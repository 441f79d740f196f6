"""UniCodec in the runtime: the published code's recorded outputs, any length, and users' errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, CodecError, Tokens
from sc_runtime.accuracy import relative_error
from sc_runtime.audio import Audio
from sc_runtime.errors import AudioError, SettingsError, TokensError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.unicodec.config import HOP, SAMPLE_RATE, UniCodecConfig
from sc_runtime.unicodec.windows import LENGTH, OVERLAP, cut_samples, join_codes, split_positions
from tests.conftest import GOLDEN, build_test_bundle

DOMAIN_ENTRIES = {None: (0, 16384), "speech": (0, 4096), "music": (4096, 8192), "sound": (8192, 16384)}
TOLERANCE = 1e-3  #: relative error ||a - b|| / ||b||


@pytest.fixture(scope="module")
def codec(tiny_unicodec: Path) -> Codec:
    return Codec.load(tiny_unicodec, backend="onnxruntime")


def make_sound(samples: int, seed: int = 0) -> np.ndarray:
    """Notes of random pitch and loudness, 80 ms each, and some noise."""
    generator = np.random.default_rng(seed)
    notes = -(-samples // 1920)
    pitch = np.repeat(generator.uniform(80, 6000, notes), 1920)[:samples]
    level = np.repeat(generator.uniform(0.01, 0.5, notes), 1920)[:samples]
    noise = 0.02 * generator.standard_normal(samples)
    return (level * np.sin(np.cumsum(pitch) * (2 * np.pi / SAMPLE_RATE)) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def full() -> Codec:
    return Codec.load(build_test_bundle(None, (16384,), "full", codec="unicodec"), backend="onnxruntime")


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "unicodec.npz"))


@pytest.mark.full_size
@pytest.mark.parametrize("domain", DOMAIN_ENTRIES)
def test_codes_are_the_published_ones(full: Codec, truth: dict[str, np.ndarray], domain: str | None) -> None:
    tokens = full.encode(GOLDEN / "mixed_24k.wav", domain=domain)
    np.testing.assert_array_equal(tokens.codes[:, 0], truth[f"codes_{domain or 'all'}"])


@pytest.mark.full_size
def test_features_and_waveform_are_the_published_ones(full: Codec, truth: dict[str, np.ndarray]) -> None:
    with Audio(GOLDEN / "mixed_24k.wav", rate=SAMPLE_RATE, mono="mean") as recording:
        sound = np.concatenate(list(recording.blocks()))
    features = full.networks.run("encoder", waveform=sound[np.newaxis])["features"][0]
    assert relative_error(features.T, truth["emb"]) < TOLERANCE
    decoded = full.decode(truth["codes_all"][:, np.newaxis])
    assert relative_error(decoded, truth["waveform"]) < TOLERANCE


@pytest.mark.full_size
@pytest.mark.parametrize(("seed", "samples"), [(2, 1), (2, 319), (2, 24_001), (1, 20 * SAMPLE_RATE)])
def test_other_seeds_and_lengths_equal_the_published_procedure(seed: int, samples: int) -> None:
    """Other cases than the recorded one, against the procedure in PyTorch, which equals the recorded case."""
    pytest.importorskip("torch")
    from bench.reference.unicodec import PublishedUniCodec
    from sc_runtime.export.registry import find_export, read_tensors
    from sc_runtime.export.seeded import SeededWeights

    sizes = find_export("unicodec").choose_sizes("full", None, 16384)
    codec = Codec.load(build_test_bundle(None, (16384,), "full", seed, codec="unicodec"), backend="onnxruntime")
    tensors = read_tensors("unicode.ckpt", SeededWeights(seed), sizes)
    published = PublishedUniCodec(sizes, {name: tensors[name] for name in tensors})
    sound = make_sound(samples, seed)
    tokens = codec.encode(sound)
    assert len(tokens) == -(-samples // HOP)
    np.testing.assert_array_equal(tokens.codes[:, 0], published.encode(sound))
    decoded = codec.decode(tokens)
    assert decoded.shape == (samples,)
    assert relative_error(decoded, published.decode(tokens.codes[:, 0])[:samples]) < TOLERANCE


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 7777, 48_000])
def test_any_length_goes_there_and_back(codec: Codec, samples: int) -> None:
    tokens = codec.encode(make_sound(samples))
    assert tokens.codes.shape == (-(-samples // HOP), 1)
    decoded = codec.decode(tokens)
    assert decoded.shape == (samples,) and decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("domain", DOMAIN_ENTRIES)
def test_a_domain_confines_the_search_to_its_entries(codec: Codec, domain: str | None) -> None:
    """Against a brute-force search in float64 over those entries."""
    sound = make_sound(24_000)
    features = codec.networks.run("encoder", waveform=sound[np.newaxis])["features"][0].astype(np.float64)
    first, last = DOMAIN_ENTRIES[domain]
    book = codec.bundle.load_codebook("unified").astype(np.float64)[first:last]
    distances = ((features[:, np.newaxis] - book) ** 2).sum(axis=2)
    codes = codec.encode(sound, domain=domain).codes[:, 0]
    np.testing.assert_array_equal(codes, first + distances.argmin(axis=1))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_earlier_recording_changes_nothing(tiny_unicodec: Path, backend: str) -> None:
    """OpenVINO's fused attention is wrong on long recordings after one of a single position."""
    pytest.importorskip(backend)
    sounds = [make_sound(samples, samples) for samples in (1, 24_000, 100, 48_000)]
    codec = Codec.load(tiny_unicodec, backend=backend, precision="float32")
    for sound in sounds:
        fresh = Codec.load(tiny_unicodec, backend="onnxruntime").encode(sound)
        assert codec.encode(sound) == fresh
        np.testing.assert_allclose(codec.decode(fresh), Codec(codec.bundle, codec.backend).decode(fresh), atol=1e-6)


def test_both_encoders_are_one_function_on_the_same_weights(tiny_unicodec: Path, codec: Codec) -> None:
    sound = make_sound(50_001)[np.newaxis]
    dense, routed = (codec.networks.run(name, waveform=sound)["features"] for name in ("encoder", "routed_encoder"))
    np.testing.assert_allclose(routed, dense, atol=1e-5 * np.abs(dense).max())
    ours, theirs = (codec.bundle.manifest.graphs[name].files for name in ("encoder", "routed_encoder"))
    assert ours[1] == theirs[1]
    sizes = {file: (tiny_unicodec / file).stat().st_size for file in (*ours, *theirs)}
    assert sizes[theirs[0]] < sizes[ours[0]] + 0.2 * sizes[ours[1]]  # nearly all of them


LENGTHS = (1, LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH - OVERLAP, 2 * LENGTH - OVERLAP + 1, 10_000, 123_457)


@pytest.mark.parametrize("positions", LENGTHS)
def test_windows_are_few_and_of_equal_length_and_overlap(positions: int) -> None:
    windows = split_positions(positions)
    lengths = {window.stop - window.start for window in windows}
    assert windows[0].start == 0 and windows[-1].stop == positions
    assert max(lengths) <= LENGTH and max(lengths) - min(lengths) <= 1
    assert all(before.stop - after.start == OVERLAP for before, after in itertools.pairwise(windows))
    assert (len(windows) - 1) * (LENGTH - OVERLAP) + OVERLAP < positions or len(windows) == 1, "one fewer would do"


@pytest.mark.parametrize("positions", LENGTHS[:-1])
@pytest.mark.parametrize("missing", [0, 1, HOP - 1])
def test_a_stream_is_cut_as_its_positions_are(positions: int, missing: int) -> None:
    generator = np.random.default_rng(positions)
    samples = HOP * positions - missing
    sound = np.arange(samples, dtype=np.float32)
    blocks = np.split(sound, np.sort(generator.integers(0, samples + 1, 20)))
    windows = split_positions(positions)
    for window, piece in zip(windows, cut_samples(blocks, windows), strict=True):
        np.testing.assert_array_equal(piece, sound[HOP * window.start : HOP * window.stop])
    codes = [np.arange(window.start, window.stop) for window in windows]
    np.testing.assert_array_equal(join_codes(windows, codes), np.arange(positions))


def test_a_file_that_shrinks_meanwhile_is_an_error(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc_runtime.unicodec.model.measure", lambda recording: (48_000, 0.0))
    with pytest.raises(AudioError, match="ends after 30000 samples; expected the 48000 of its first reading"):
        codec.encode(make_sound(30_000))


def test_up_to_thirty_seconds_are_one_window(codec: Codec) -> None:
    """So that nothing differs there from the published code, which runs a whole file at once."""
    sound = make_sound(30 * SAMPLE_RATE)
    whole = codec.networks.run("encoder", waveform=sound[np.newaxis])["features"][0]
    expected = codec.networks.open_search("unified").search(whole)
    np.testing.assert_array_equal(codec.encode(sound).codes[:, 0], expected)


def test_a_long_recording_is_decoded_in_pieces_that_join(codec: Codec) -> None:
    codes = np.random.default_rng(1).integers(0, 16384, (2 * LENGTH + 700, 1))
    windows = split_positions(len(codes))
    pieces = list(codec.decode_stream(codes))
    joined = np.concatenate(pieces)
    assert len(windows) == 3 and len(pieces) == 4  # and what is left of the last
    assert len(joined) == HOP * len(codes)
    alone = [codec.decode(codes[window]) for window in windows]
    for number, (window, sound) in enumerate(zip(windows, alone, strict=True)):
        first = window.start + (OVERLAP if number else 0)
        last = window.stop - (OVERLAP if window.stop < len(codes) else 0)
        own = sound[HOP * (first - window.start) : HOP * (last - window.start)]
        np.testing.assert_array_equal(joined[HOP * first : HOP * last], own)


def test_progress_ends_at_its_total(codec: Codec) -> None:
    seen: list[tuple[int, int]] = []
    tokens = codec.encode(make_sound(HOP * (LENGTH + 10)), progress=lambda *units: seen.append(units))
    codec.decode(tokens, progress=lambda *units: seen.append(units))
    assert seen == 2 * [(1, 2), (2, 2)]


def test_embed_gives_the_effective_codebook(codec: Codec) -> None:
    codes = np.array([[5], [0], [16383]])
    vectors = codec.embed(codes)
    np.testing.assert_array_equal(vectors, codec.bundle.load_codebook("unified")[codes[:, 0]])


def test_files_hold_fourteen_bits_a_token(codec: Codec, tmp_path: Path) -> None:
    tokens = codec.encode(make_sound(10 * SAMPLE_RATE))
    assert tokens.bitrate == 14 * 75 == 1050
    tokens.save(tmp_path / "a.sct")
    tokens.save(tmp_path / "a.npy")
    header = 26
    assert (tmp_path / "a.sct").stat().st_size == header + -(-14 * 750 // 8)
    assert Tokens.load(tmp_path / "a.sct") == tokens
    assert np.load(tmp_path / "a.npy").shape == (1, 750, 1)
    np.testing.assert_array_equal(codec.decode(tmp_path / "a.npy"), codec.decode(tmp_path / "a.sct"))


@pytest.mark.parametrize(
    "option",
    [
        {"preset": "fast"},
        {"steps": 10},
        {"guidance": 2.0},
        {"eta": 0.0},
        {"solver": "dpm"},
        {"seed": 1},
        {"interval": (0, 9)},
    ],
)
def test_options_of_a_sampler_are_refused(codec: Codec, option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(SettingsError, match=rf"^{name} .* of unicodec \(it has none\): leave it out$"):
        codec.decode_stream(np.zeros((10, 1), int), **option)  # type: ignore[arg-type]


def test_an_unknown_domain_is_refused(codec: Codec) -> None:
    with pytest.raises(SettingsError, match=r"domain 'noise'; expected speech, music, sound"):
        codec.encode(make_sound(1000), domain="noise")


def test_tokens_of_the_other_codec_are_refused(codec: Codec) -> None:
    config = SemantiCodecConfig(50, 16384)
    tokens = Tokens.from_array(np.zeros((8, 2), int), config)
    with pytest.raises(TokensError, match=r"tokens of semanticodec; expected tokens of unicodec"):
        codec.decode(tokens)


def test_stereo_is_mixed_by_its_mean(codec: Codec, tmp_path: Path) -> None:
    left, right = make_sound(24_000, 1), make_sound(24_000, 2)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), SAMPLE_RATE, "FLOAT")
    mixed = (left + right) / np.float32(2)
    assert codec.encode(tmp_path / "stereo.wav") == codec.encode(mixed)


@pytest.mark.parametrize("bad", [(2, (5, 5)), (75, (5, 5)), (50, (16384,))])
def test_other_codebooks_make_no_unicodec(bad: tuple[int, tuple[int, ...]]) -> None:
    with pytest.raises(SettingsError):
        UniCodecConfig.from_codebook_sizes(*bad)


def test_the_command_line_works_on_it(tiny_unicodec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sc_runtime.cli.app import app
    from sc_runtime.cli.program import run_command

    def call(*arguments: str) -> tuple[int, str]:
        code = run_command(app, list(arguments))
        return code, capsys.readouterr().out

    sound = make_sound(3 * SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", sound, SAMPLE_RATE)
    bundle = ("--bundle", str(tiny_unicodec), "--backend", "onnxruntime")
    assert call("encode", str(tmp_path / "a.wav"), "--domain", "music", *bundle)[0] == 0
    code, text = call("info", str(tmp_path / "a.sct"), "--json")
    facts = json.loads(text)
    assert (code, facts["codec"], facts["tps"], facts["vocabularies"]) == (0, "unicodec", 75, {"unified": 16384})
    assert call("decode", str(tmp_path / "a.sct"), "-o", str(tmp_path / "b.wav"), *bundle)[0] == 0
    assert soundfile.info(tmp_path / "b.wav").samplerate == SAMPLE_RATE
    assert soundfile.info(tmp_path / "b.wav").frames == len(sound)
    assert call("roundtrip", str(tmp_path / "a.wav"), *bundle)[0] == 0
    assert call("decode", str(tmp_path / "a.sct"), "--steps", "5", "--force", *bundle)[0] == 1
    assert call("info", str(tiny_unicodec))[0] == 0


def test_decoding_takes_the_bundle_that_suits_the_file(
    tiny_unicodec: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --bundle it is a built bundle of trained weights, of the codec that the file states."""
    from sc_runtime.cli.app import app
    from sc_runtime.cli.program import run_command

    built = [tiny_bundle, tiny_unicodec]
    monkeypatch.setattr("sc_runtime.bundle.locate.list_bundles", lambda *_: built)
    monkeypatch.setattr("sc_runtime.bundle.locate.is_candidate", lambda path: path in built)
    monkeypatch.delenv("SC_RUNTIME_BUNDLE", raising=False)
    for config, name in ((UniCodecConfig(), tiny_unicodec.name), (SemantiCodecConfig(50, 4096), tiny_bundle.name)):
        file = tmp_path / f"{config.codec}.sct"
        Tokens.from_array(np.zeros((20, len(config.codebook_sizes)), int), config).save(file)
        steps = ["--steps", "1"] if config.codec == "semanticodec" else []
        assert run_command(app, ["decode", str(file), "--backend", "onnxruntime", *steps]) == 0
        assert f"bundle: {name}, " in capsys.readouterr().err


def test_errors_are_codec_errors() -> None:
    for vocab in (0, 6):
        with pytest.raises(CodecError):
            UniCodecConfig(vocab)
