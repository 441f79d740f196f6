"""SemantiCodec (Liu et al., 2024): AudioMAE features to two tokens a position, and latent diffusion back to sound."""
