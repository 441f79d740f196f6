"""UniCodec's facts: its graphs, its options, the settings that were published."""

from __future__ import annotations

from sc_runtime.spec import CodecSpec, DerivedAxis, GraphSpec

from .config import HOP, TPS, UniCodecConfig
from .windows import LENGTH

TYPICAL = 10 * TPS  #: positions of 10 s, the typical length: the network was trained on it
BATCH = (1, 1, 4)
POSITIONS = {"positions": DerivedAxis("samples", denominator=HOP)}

SPEC = CodecSpec(
    number=1,
    config=UniCodecConfig,
    published=(UniCodecConfig(),),
    mono="mean",
    batches=False,
    graphs={
        "encoder": GraphSpec(
            profile={"batch": BATCH, "samples": (1, HOP * TYPICAL, HOP * LENGTH)},
            derived_axes=POSITIONS,
            makes_tokens=True,
            free_axes=frozenset({"samples"}),
        ),
        # The same encoder for CPUs: each expert runs only on the positions that are routed to it.
        "routed_encoder": GraphSpec(derived_axes=POSITIONS, makes_tokens=True, free_axes=frozenset({"samples"})),
        "decoder": GraphSpec(
            profile={"batch": BATCH, "positions": (1, TYPICAL, LENGTH)},
            derived_axes={"samples": DerivedAxis("positions", HOP)},
            free_axes=frozenset({"positions"}),
        ),
    },
    encode_options=frozenset({"domain"}),
)
