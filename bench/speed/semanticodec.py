"""What only SemantiCodec has, for the benchmarks that measure it and no other codec."""

from __future__ import annotations

from sc_runtime import Codec
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.model import SemantiCodecModel


def take_config(bundle: Bundle) -> SemantiCodecConfig:
    """The settings of a bundle of SemantiCodec. Raises SettingsError for one of another codec, which it names."""
    config = bundle.choose_config()
    if not isinstance(config, SemantiCodecConfig):
        given = f"bundle {bundle.name} of {config.codec}"
        raise SettingsError(given, "one of semanticodec, which is what this measures", "name another with --bundle")
    return config


def take_model(codec: Codec) -> SemantiCodecModel:
    """SemantiCodec on the graphs of a bundle. Raises SettingsError, as `take_config` does."""
    take_config(codec.bundle)
    assert isinstance(codec.model, SemantiCodecModel)
    return codec.model
