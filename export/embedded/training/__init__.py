"""Training of the embedded model, stage by stage."""
