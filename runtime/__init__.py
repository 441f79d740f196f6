"""sc_runtime: the deployment runtime of semantic audio codecs. Torch-free.

from sc_runtime import Codec
codec = Codec.load()
tokens = codec.encode("speech.wav")
audio = codec.decode(tokens)

Each public name is imported when it is first used, so that `sc-runtime --help` does not wait for NumPy. `__init__.pyi`
states their types.
"""

from importlib import import_module

HOMES = {  #: public name -> its module
    "Codec": ".codec",
    "CodecConfig": ".config",
    "CodecError": ".errors",
    "DecodeOptions": ".spec",
    "SemantiCodec": ".drop_in",
    "Tokens": ".tokens",
}

__all__ = ["Codec", "CodecConfig", "CodecError", "DecodeOptions", "SemantiCodec", "Tokens"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The public name `name`, imported from its module."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *HOMES]
