"""UniCodec (Jiang et al., 2025): one codebook, 75 tokens a second, no diffusion."""
