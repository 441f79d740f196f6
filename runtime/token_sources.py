"""What decoding takes as tokens: Tokens, files, arrays, rows of a collection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .bundle.store import Bundle
from .config import CodecConfig
from .errors import TokensError
from .tokens import Tokens

TokensSource = Tokens | str | os.PathLike[str] | np.ndarray | Mapping[str, Any]


def take_tokens(source: TokensSource, bundle: Bundle, vocab: int | None) -> Tokens:
    """`source` as tokens of `bundle`. Raises TokensError if their settings differ from the bundle's.

    vocab: entries of the semantic codebook that an array, a row or an .npy file was made with.
    """
    if isinstance(source, Tokens):
        tokens = source
    elif isinstance(source, (str, os.PathLike)):
        tokens = load_tokens(Path(source), bundle.choose_config(vocab))
    elif isinstance(source, Mapping):
        tokens = Tokens.from_row(source, bundle.choose_config(vocab))
    elif isinstance(source, bytes) or not hasattr(source, "__len__"):
        expected = "Tokens, the name of a file, an array [T, C], or a row of a collection"
        raise TokensError(f"tokens of type {type(source).__name__}", expected, "give what Codec.encode returns")
    else:
        tokens = Tokens.from_array(source, bundle.choose_config(vocab))
    if vocab is not None and tokens.config.vocab != vocab:
        given = f"vocab {vocab} for tokens that state the vocabulary {tokens.config.vocab}"
        raise TokensError(given, "the same", "leave vocab out: it is for arrays and .npy files")
    if tokens.config.vocab in bundle.manifest.vocabularies:
        return tokens.require(bundle.choose_config(tokens.config.vocab))
    return tokens.require(bundle.choose_config())  # raises a TokensError that names both vocabularies


def load_tokens(path: Path, config: CodecConfig) -> Tokens:
    """Tokens of a file. An .sct file states its settings; an .npy file is read with those of `config`."""
    return Tokens.load(path, config if path.suffix.lower() == ".npy" else None)
