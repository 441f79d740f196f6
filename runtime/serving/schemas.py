"""The shapes of requests and answers, as OpenAPI states them.

The options of a codec come from `EncodeOptions` and `DecodeOptions`, which declare them.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from sc_runtime.codec import Codec
from sc_runtime.errors import SettingsError, TokensError
from sc_runtime.registry import find_model
from sc_runtime.spec import DecodeOptions, EncodeOptions
from sc_runtime.tokens import Tokens

from .sounds import BIT_DEPTHS

STRICT = ConfigDict(extra="forbid")
ENCODE_OPTIONS = [each.name for each in fields(EncodeOptions) if each.metadata]
DECODE_OPTIONS = [each.name for each in fields(DecodeOptions) if each.metadata]


def declare_options(kind: type[EncodeOptions] | type[DecodeOptions]) -> dict[str, Any]:
    """The fields of an options class that have a help text, as pydantic takes them."""
    types = inspect.get_annotations(kind, eval_str=True)
    return {
        each.name: (types[each.name], Field(None, description=each.metadata["help"]))
        for each in fields(kind)
        if each.metadata
    }


class CommonQuery(BaseModel):
    """What every request may state."""

    model_config = STRICT
    vocab: int | None = Field(None, description="A vocabulary of the bundle, as /v1/models lists them.")


class SoundQuery(CommonQuery):
    """How sound is sent."""

    response_format: Literal["wav", "flac", "ogg", "opus", "mp3", "pcm"] = Field(
        "wav", description="pcm is samples alone, little-endian; x-sample-rate, x-channels and x-bit-depth state them."
    )
    stream: bool = Field(False, description="Send each piece when it is made. For wav, ogg, opus and pcm.")
    bit_depth: int | None = Field(
        None,
        description="Of pcm: 16 (the default) or 24 bits, or 32-bit floats.",
        json_schema_extra={"enum": [*BIT_DEPTHS, None]},
    )


class FormatQuery(CommonQuery):
    """How tokens are sent."""

    format: Literal["json", "sct", "npy"] | None = Field(None, description="Of the answer; it precedes `Accept`.")


TokensQuery = create_model("TokensQuery", __base__=FormatQuery, **declare_options(EncodeOptions))
AudioQuery = create_model("AudioQuery", __base__=SoundQuery, **declare_options(DecodeOptions))


class TokensDocument(BaseModel):
    """Tokens of one recording."""

    model_config = STRICT

    codes: list[list[int]] = Field(description="A row for each position, a column for each codebook.")
    positions: int | None = Field(None, description="Number of rows.")
    samples: int | None = Field(None, description="Length of the original at the codec's rate, if it is known.")
    codec: str | None = Field(None, description="As /v1/models names it.")
    rate: int | None = Field(None, description="Tokens a second.")
    vocabularies: dict[str, int] | None = Field(None, description="Entries of the codebook behind each column.")
    sha256: str | None = Field(None, description="SHA-256 of the .sct file of these tokens, hexadecimal.")


SOUND_FIELDS: dict[str, Any] = {name: (field.annotation, field) for name, field in AudioQuery.model_fields.items()}
AudioDocument = create_model("AudioDocument", __base__=TokensDocument, **SOUND_FIELDS)


class TaskSettings(BaseModel):
    """The first message of `WS /v1/stream`."""

    task: Literal["decode", "encode"]
    api_key: str | None = Field(None, description="For clients that cannot send headers.")


class DecodeTask(CommonQuery):
    """Tokens in one binary message -> PCM in binary messages."""

    task: Literal["decode"]
    api_key: str | None = None
    bit_depth: int | None = Field(None, description="16 (the default) or 24 bits, or 32-bit floats.")


class EncodeTask(CommonQuery):
    """PCM in binary messages, then a message `end` -> tokens."""

    task: Literal["encode"]
    api_key: str | None = None
    sample_rate: int | None = Field(None, description="Hz; by default the codec's.")
    channels: int = Field(1, ge=1, le=64)
    bit_depth: int = Field(16, description="16 bits, or 32-bit floats.")
    segment_seconds: float | None = Field(None, description="Encode segments of this length, each by itself.")


DecodeSettings = create_model("DecodeSettings", __base__=DecodeTask, **declare_options(DecodeOptions))
EncodeSettings = create_model("EncodeSettings", __base__=EncodeTask, **declare_options(EncodeOptions))


class EndMessage(BaseModel):
    """The message after the last samples."""

    model_config = STRICT
    type: Literal["end"]


class ModelDocument(BaseModel):
    """A bundle that the server has loaded."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = Field(description="Where the weights came from.")
    codec: str
    rate: int = Field(description="Tokens a second.")
    sample_rate: int = Field(description="Hz, of decoded sound.")
    vocabularies: list[int] = Field(description="Values of `vocab`; the last is the default.")
    codebooks: dict[str, int] = Field(description="Entries of each codebook, for the default vocabulary.")
    bitrate: float = Field(description="Bits a second of packed tokens.")
    encode_options: list[str]
    decode_options: list[str]
    backend: str
    device: str
    max_seconds: float
    max_positions: int


class ModelList(BaseModel):
    """As OpenAI's interface lists models."""

    object: Literal["list"] = "list"
    data: list[ModelDocument]


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    given: str = Field(description="The value that was refused.")
    expected: str = Field(description="What would have been accepted.")
    remedy: str = Field(description="What to do.")
    request_id: str


class State(BaseModel):
    """The state of the server."""

    status: Literal["ok", "starting", "failed", "ending"]


def hash_tokens(tokens: Tokens) -> str:
    return hashlib.sha256(tokens.to_bytes()).hexdigest()


def describe_tokens(tokens: Tokens) -> TokensDocument:
    return TokensDocument(
        codes=tokens.codes.tolist(),
        positions=len(tokens),
        samples=tokens.samples,
        codec=tokens.config.codec,
        rate=tokens.config.tps,
        vocabularies=tokens.config.codebook_sizes,
        sha256=hash_tokens(tokens),
    )


def take_tokens(document: TokensDocument, codec: Codec, vocab: int | None) -> Tokens:
    """The tokens of a document. What it leaves out is the bundle's. Raises TokensError, SettingsError."""
    config = codec.bundle.choose_config(vocab)
    if document.codec or document.rate or document.vocabularies:
        sizes = document.vocabularies or config.codebook_sizes
        try:
            spec = find_model(document.codec or config.codec).spec
            names = list(spec.published[0].codebook_sizes)  # the order of a JSON object means nothing
            if set(sizes) != set(names):
                raise SettingsError(f"vocabularies of {', '.join(sizes)}", f"of {', '.join(names)}")
            entries = tuple(sizes[name] for name in names)
            config = spec.config.from_codebook_sizes(document.rate or config.tps, entries)
        except SettingsError as error:
            raise TokensError(f"tokens of {error.given}", error.expected, error.remedy) from error
    tokens = Tokens.from_array(document.codes, config, document.samples)
    if document.positions is not None and document.positions != len(tokens):
        raise TokensError(f"positions {document.positions}", f"{len(tokens)}, the number of rows", "leave it out")
    if document.sha256 is not None and document.sha256 != hash_tokens(tokens):
        raise TokensError(f"sha256 {document.sha256[:64]}", hash_tokens(tokens), "the tokens are damaged")
    return tokens
