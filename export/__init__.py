"""Checkpoint to bundle: traces a codec's networks to ONNX. Needs torch; nothing in the runtime imports it."""
