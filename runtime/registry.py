"""The list of codecs. A new codec needs a folder here, a folder in `export/`, and a line in `MODELS`."""

from __future__ import annotations

from .errors import SettingsError
from .model import Model
from .semanticodec.model import SemantiCodecModel
from .unicodec.model import UniCodecModel

MODELS: tuple[type[Model], ...] = (SemantiCodecModel, UniCodecModel)


def find_model(name: str) -> type[Model]:
    """The codec `name`. Raises SettingsError if there is none."""
    for model in MODELS:
        if model.spec.name == name:
            return model
    raise SettingsError(f"codec {name!r}", f"one of {', '.join(model.spec.name for model in MODELS)}")
