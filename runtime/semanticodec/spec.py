"""SemantiCodec's facts: its graphs, its options, the settings that were published."""

from __future__ import annotations

from sc_runtime.spec import CodecSpec, DerivedAxis, GraphSpec

from .config import (
    FRAME_SHIFT,
    SEGMENT_FRAMES,
    SEGMENT_SAMPLES,
    TOKEN_RATES,
    WINDOW_SAMPLES,
    SemantiCodecConfig,
)

VOCABULARIES = (4096, 8192, 16384, 32768)  #: semantic, as published
GPU_WINDOWS = 16  #: run together on a GPU; from here on windows one after the other take no longer
FRAME_STEP = 64  #: the vocoder runs on a multiple of so many frames, so that a backend meets few different shapes

WINDOWS = {"batch": (1, 4, GPU_WINDOWS)}
BRANCHES = {"batch": (1, 2 * GPU_WINDOWS, 2 * GPU_WINDOWS)}  #: of guidance: the T-UNet takes both of every window
ONE_WINDOW = {"batch": (1, 2, 4)}  #: kernels that are fastest for 32 branches are not those for the two of a window

SPEC = CodecSpec(
    number=0,
    config=SemantiCodecConfig,
    published=tuple(SemantiCodecConfig(tps, vocab) for tps in TOKEN_RATES for vocab in VOCABULARIES),
    mono="first",
    batches=True,
    graphs={
        "audiomae": GraphSpec(profile=WINDOWS, makes_tokens=True, gains_from_batch=False),
        "acoustic_encoder": GraphSpec(profile=WINDOWS, makes_tokens=True, is_lstm=True),
        "conditioning": GraphSpec(profile=WINDOWS),
        "tunet_step": GraphSpec(profile=BRANCHES, few=ONE_WINDOW),
        "vae_decoder": GraphSpec(profile=WINDOWS),
        "hifigan": GraphSpec(
            profile={**WINDOWS, "frames": (FRAME_STEP, SEGMENT_FRAMES, SEGMENT_FRAMES)},
            # n frames give 160 n samples and 32 more.
            derived_axes={"samples": DerivedAxis("frames", FRAME_SHIFT, offset=WINDOW_SAMPLES - SEGMENT_SAMPLES)},
            # In its last stage loud channels cancel to silence. Rounded to bfloat16 that stage leaves noise in quiet
            # passages: the mel distance of one clip of music grew by 11 %. With it, a twentieth of the arithmetic, in
            # float32, it grows by 0.1 % (embedded model).
            float32_tail="ConvTranspose",
        ),
    },
    decode_options=frozenset({"preset", "steps", "guidance", "eta", "solver", "interval", "seed", "noise"}),
)
