"""`python -m export.embedded.gpu` packs, trains and takes back what a GPU that is lent for minutes has trained."""

from sc_runtime.export.embedded.gpu.command import run

run()
