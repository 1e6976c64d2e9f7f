"""The fused attention of target `trt-plugin` and its INT4 linear: Triton kernels and their uses."""
