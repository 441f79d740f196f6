"""Sizes of the networks that are being trained: those of the shipped model, unless a training changes them.

Why they are as they are:

There are 100 tokens a second instead of 50: each position of AudioMAE has its own pair of tokens. So the T-UNet, which
limits the quality, has to guess less. Both tokens of a position have 12 bits.

The VAE has 24 channels instead of 16. Measured on 2026-11-26, one thread, fresh networks, 1.5 minutes of CPU time:
24 channels reach a log-mel L1 of 0.50, as 16 do, and 32 channels 0.56; in 3 minutes 16 channels reach 0.32 and 32
reach 0.42. So 24 channels cost nothing at first, and have 2.25 times the weights for later. The latent does not
prevent the goal of 0.1: a linear code of patches of 4 frames by 4 bins, of the same rate, has an L1 of 0.07 (PCA of
180 clips).

The T-UNet has 32 channels and the vocoder 256, for training on a GPU: their widths are multiples of 8, as Tensor Cores
want them.
"""

from __future__ import annotations

from sc_runtime.export.semanticodec.networks.sizes import EMBEDDED

TRAINED = EMBEDDED
