"""Triton kernels of the INT8 Swin, by name. Importing this package needs triton; TRITON_INTERPRET=1 must be set before."""

from geluless.engine.gpu.kernels.activation import gelu_after_gemm, relu_after_gemm, relu_words
from geluless.engine.gpu.kernels.attention import window_attention
from geluless.engine.gpu.kernels.layer_norm import layer_norm
from geluless.engine.gpu.kernels.linear import int8_linear
from geluless.engine.gpu.kernels.patch_embed_classifier import classifier, pool, quantize_patches

KERNELS = {
    "classifier": classifier,
    "gelu_after_gemm": gelu_after_gemm,
    "int8_linear": int8_linear,
    "layer_norm": layer_norm,
    "pool": pool,
    "quantize_patches": quantize_patches,
    "relu_after_gemm": relu_after_gemm,
    "relu_words": relu_words,
    "window_attention": window_attention,
}
