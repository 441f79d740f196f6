"""TensorRT and TensorRT-RTX, and the plans that they run."""
