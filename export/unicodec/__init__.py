"""UniCodec's networks of inference and where their weights come from; needs torch."""
