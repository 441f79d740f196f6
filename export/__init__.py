"""Checkpoint to bundle: traces the five networks to ONNX. Needs torch; nothing in the runtime imports it."""
