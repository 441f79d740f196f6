"""One NVIDIA GPU: kernels compiled at run time, memory and streams, the centroid search, the solver."""
