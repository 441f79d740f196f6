"""`python -m sc_runtime.cli` is `sc-runtime`."""

from .app import main

main()
