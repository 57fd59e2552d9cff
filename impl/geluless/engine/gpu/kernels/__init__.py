"""Triton kernels of the INT8 Swin, by name. Importing this package needs triton; TRITON_INTERPRET=1 must be set before."""

from geluless.engine.gpu.kernels.activation import gelu_after_gemm, relu_after_gemm, relu_s16
from geluless.engine.gpu.kernels.attention import window_attention
from geluless.engine.gpu.kernels.classifier import classifier, pool
from geluless.engine.gpu.kernels.layer_norm import layer_norm
from geluless.engine.gpu.kernels.linear import int8_linear
from geluless.engine.gpu.kernels.patch_embed import quantize_patches

_LAYERS = (quantize_patches, int8_linear, layer_norm, window_attention, pool, classifier)
_ACTIVATIONS = (gelu_after_gemm, relu_after_gemm, relu_s16)
KERNELS = {kernel.__name__: kernel for kernel in (*_LAYERS, *_ACTIVATIONS)}
