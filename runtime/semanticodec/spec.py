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
GPU_WINDOWS = 16  #: windows that run together on a GPU; a larger batch gains nothing
FRAME_STEP = 64  #: the vocoder runs on a multiple of this many frames, so that a backend compiles few shapes

WINDOWS = {"batch": (1, 4, GPU_WINDOWS)}
BRANCHES = {"batch": (1, 2 * GPU_WINDOWS, 2 * GPU_WINDOWS)}  #: one T-UNet batch holds both branches of every window
ONE_WINDOW = {"batch": (1, 2, 4)}  #: the kernels that are fastest for 32 branches are not the fastest for 2

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
        "tunet_step": GraphSpec(
            profile=BRANCHES, few=ONE_WINDOW, shared_inputs=frozenset({"latent", "step"}), repeats=True
        ),
        "vae_decoder": GraphSpec(profile=WINDOWS),
        "hifigan": GraphSpec(
            profile={**WINDOWS, "frames": (FRAME_STEP, SEGMENT_FRAMES, SEGMENT_FRAMES)},
            # n frames give 160 n samples and 32 more.
            derived_axes={"samples": DerivedAxis("frames", FRAME_SHIFT, offset=WINDOW_SAMPLES - SEGMENT_SAMPLES)},
            # In the last stage loud channels cancel to silence. In bfloat16 this stage leaves noise in quiet passages:
            # the mel distance of one clip of music grew by 11 %. With this stage in float32, which is a twentieth of
            # the arithmetic, it grew by 0.1 % (embedded model).
            float32_tail="ConvTranspose",
        ),
    },
    decode_options=frozenset({"preset", "steps", "guidance", "eta", "solver", "interval", "seed", "noise"}),
)
