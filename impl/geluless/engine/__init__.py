"""Engines run artifacts fast: `Engine` is the public face, `cpu` the compiled kernels, `gpu` those of Triton."""
