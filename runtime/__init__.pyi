from .codec import Codec as Codec
from .config import CodecConfig as CodecConfig
from .drop_in import SemantiCodec as SemantiCodec
from .errors import CodecError as CodecError
from .spec import DecodeOptions as DecodeOptions
from .tokens import Tokens as Tokens

__all__ = ["Codec", "CodecConfig", "CodecError", "DecodeOptions", "SemantiCodec", "Tokens"]
__version__: str
