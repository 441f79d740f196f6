"""The published procedures in PyTorch eager, written anew: what the runtime is compared with."""
