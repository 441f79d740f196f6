"""`python -m export.embedded.training` trains the embedded model."""

from sc_runtime.export.embedded.training.command import run

run()
