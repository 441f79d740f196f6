"""SemantiCodec's networks, graphs and checkpoint."""
