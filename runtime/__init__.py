"""sc_runtime: the deployment runtime of semantic audio codecs. Torch-free.

from sc_runtime import Codec
codec = Codec.load()
tokens = codec.encode("speech.wav")
audio = codec.decode(tokens)
"""

from .codec import Codec
from .config import CodecConfig
from .drop_in import SemantiCodec
from .errors import CodecError
from .tokens import Tokens

__all__ = ["Codec", "CodecConfig", "CodecError", "SemantiCodec", "Tokens"]
__version__ = "0.1.0"
