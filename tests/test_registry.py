"""Every codec of `MODELS` supplies what the Protocol and its facts state, and refuses options that it does not have."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator

import pytest

from sc_runtime.bundle.store import Bundle
from sc_runtime.config import CodecConfig
from sc_runtime.errors import SettingsError
from sc_runtime.model import Model
from sc_runtime.registry import MODELS, find_model
from sc_runtime.spec import CodecSpec, DecodeOptions, EncodeOptions, change_options, check_options
from sc_runtime.token_files import count_bytes
from sc_runtime.tokens import Tokens

BUNDLES = {"semanticodec": "tiny_bundle", "unicodec": "tiny_unicodec"}  #: fixtures
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.spec.name)


def list_methods(owner: type) -> Iterator[tuple[str, object]]:
    for name, method in inspect.getmembers(owner, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            yield name, method


def test_numbers_and_names_are_distinct() -> None:
    """A number stands in every token file, a name in every manifest."""
    numbers, names = [model.spec.number for model in MODELS], [model.spec.name for model in MODELS]
    assert sorted(set(numbers)) == sorted(numbers) and all(0 <= number < 256 for number in numbers)
    assert sorted(set(names)) == sorted(names)
    assert dict(zip(names, numbers, strict=True)) == {"semanticodec": 0, "unicodec": 1}, "files that exist hold these"
    for model in MODELS:
        assert find_model(model.spec.name) is model


@each_model
def test_it_supplies_what_the_protocol_names(model: type[Model]) -> None:
    for name in inspect.get_annotations(Model):
        assert hasattr(model, name), name
    supplied = dict(list_methods(model))
    for name, method in list_methods(Model):
        assert name in supplied, name
        wanted, given = (inspect.signature(each).parameters for each in (method, supplied[name]))  # type: ignore[arg-type]
        assert [(each.name, each.kind) for each in given.values()] == [
            (each.name, each.kind) for each in wanted.values()
        ]
    assert issubclass(model.spec.config, CodecConfig) and not inspect.isabstract(model.spec.config)
    assert model.spec.mono in ("first", "mean")


@each_model
def test_its_options_exist(model: type[Model]) -> None:
    assert model.spec.encode_options <= {field.name for field in dataclasses.fields(EncodeOptions)}
    assert model.spec.decode_options <= {field.name for field in dataclasses.fields(DecodeOptions)}


@each_model
def test_its_published_settings_survive_manifests_and_token_files(model: type[Model]) -> None:
    assert len(set(model.spec.published)) == len(model.spec.published) >= 1
    for config in model.spec.published:
        assert type(config) is model.spec.config
        settings = json.loads(json.dumps(config.settings))
        assert model.spec.config.from_settings(config.vocab, settings) == config
        assert model.spec.config.from_codebook_sizes(config.tps, tuple(config.codebook_sizes.values())) == config
        assert next(iter(config.codebook_sizes.values())) == config.vocab
        codes = [[entries - 1 for entries in config.codebook_sizes.values()]]
        data = Tokens.from_array(codes, config).to_bytes()
        assert len(data) == count_bytes(1, config)
        assert Tokens.from_bytes(data).config == config


@each_model
def test_positions_are_of_its_rate(model: type[Model]) -> None:
    """They decode to at least as many samples as were encoded, and to less than one position more."""
    for config in model.spec.published:
        seconds = 3600
        positions = config.count_positions(seconds * config.sample_rate)
        assert positions * len(config.codebook_sizes) / seconds == pytest.approx(config.tps, rel=1e-3)
        assert config.count_samples(positions) == pytest.approx(seconds * config.sample_rate, rel=1e-3)
        assert config.bitrate == pytest.approx(positions * sum(config.bits) / seconds, rel=1e-3)
        assert config.count_positions(1) >= 1
        assert config.count_samples(config.count_positions(1)) >= 1


@each_model
def test_its_bundle_names_it(model: type[Model], request: pytest.FixtureRequest) -> None:
    manifest = Bundle.load(request.getfixturevalue(BUNDLES[model.spec.name])).manifest
    assert manifest.spec is model.spec
    assert model.spec.graphs.keys() == manifest.graphs.keys()
    makers = {name for name, graph in model.spec.graphs.items() if graph.makes_tokens}
    assert makers and makers < manifest.graphs.keys()


def test_an_unknown_codec_is_one_clear_line() -> None:
    with pytest.raises(SettingsError) as caught:
        find_model("abacus")
    assert str(caught.value) == "codec 'abacus'; expected one of semanticodec, unicodec"


def make_spec(*options: str) -> CodecSpec:
    """SemantiCodec's facts, with other options of encoding and decoding."""
    taken = frozenset(options)
    return dataclasses.replace(find_model("semanticodec").spec, encode_options=taken, decode_options=taken)


def test_a_domain_is_no_option_of_semanticodec() -> None:
    with pytest.raises(SettingsError) as caught:
        check_options(EncodeOptions("music"), find_model("semanticodec").spec)
    expected = "domain music; expected an option of semanticodec (it has none): leave it out"
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DecodeOptions)])
@pytest.mark.parametrize("value", [0, 0.0, "", 7])
def test_an_option_counts_as_given_whatever_its_value(name: str, value: object) -> None:
    """0 steps are not "no steps given". A codec that has the option accepts it."""
    options = DecodeOptions(**{name: value})  # type: ignore[arg-type]
    check_options(options, make_spec(name))
    for taken, has in (((), "it has none"), (("z", "a"), "it has a, z")):
        expected = rf"^{name} {value}; expected an option of semanticodec \({has}\): leave it out$"
        with pytest.raises(SettingsError, match=expected):
            check_options(options, make_spec(*taken))


@each_model
def test_an_option_that_is_not_given_is_not_refused(model: type[Model]) -> None:
    check_options(EncodeOptions(), model.spec)
    check_options(DecodeOptions(), model.spec)


def test_options_change_by_name() -> None:
    options = change_options(DecodeOptions(steps=9, seed=1), {"steps": 8, "eta": 0.5})
    assert options == DecodeOptions(steps=8, seed=1, eta=0.5)
    assert change_options(None, {}) == DecodeOptions()
    with pytest.raises(SettingsError) as caught:
        change_options(None, {"step": 8})
    expected = "option step=8; expected one of preset, steps, guidance, eta, solver, interval, seed, noise"
    assert str(caught.value) == expected
