"""sc_runtime: the deployment runtime of SemantiCodec. Torch-free.

from sc_runtime import Codec
codec = Codec.load()
tokens = codec.encode("speech.wav")
audio = codec.decode(tokens)
"""

from .codec import Codec
from .errors import CodecError
from .semanticodec.config import SemantiCodecConfig
from .semanticodec.published import SemantiCodec
from .tokens import Tokens

__all__ = ["Codec", "CodecError", "SemantiCodec", "SemantiCodecConfig", "Tokens"]
__version__ = "0.1.0"
