"""UniCodec's networks, graphs and checkpoint; needs torch."""
