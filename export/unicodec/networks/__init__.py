"""UniCodec's networks in PyTorch."""
