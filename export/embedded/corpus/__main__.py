"""`python -m export.embedded.corpus` writes the corpus."""

from sc_runtime.export.embedded.corpus.command import run

run()
