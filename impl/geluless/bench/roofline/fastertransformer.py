"""FasterTransformer's INT8 Swin v1 as a list of kernels, after the source of release 5.3 (SwinBlockINT8.cc)."""

from __future__ import annotations

from geluless.bench.roofline.devices import Device
from geluless.bench.roofline.work import Work
from geluless.sizes import SIZES

FUSED_ATTENTION = (75, 80, 86)  # WindowAttentionINT8.cu; Ada (89) is not among them
TOKENS, PADDED_TOKENS = 49, 64  # a window, and what its matrix products are padded to


def forward(size: str, batch: int, device: Device, *, int8_mode: int = 1, gelu: bool = True) -> list[Work]:
    """All kernels of a forward pass at 224 x 224. `gelu=False` leaves the GELU kernel out: the paper's saving, and no more."""
    network = SIZES[size]
    pixels, side, channels = batch * 3 * 224 * 224, 56, network.channels
    rows = batch * side * side
    works = [_gemm("stem", rows, 48, channels, source=2, result=2), _pass("stem norm", 2 * rows * channels, 2 * rows * channels)]
    works.append(_pass("images", 2 * pixels, 0))
    for stage, depth in enumerate(network.depths):
        if stage:
            works.append(_pass("merge: gather, norm", 2 * rows * channels, rows * channels))
            rows, channels, side = rows // 4, 2 * channels, side // 2
            result = 4 if int8_mode == 2 else 1
            works.append(_gemm("reduction", rows, 2 * channels, channels, result=result))
            works.append(_pass("merge: dequantize", result * rows * channels, 2 * rows * channels))
        works += [work.times(depth) for work in block(rows, channels, network.heads[stage], device, int8_mode, gelu=gelu)]
    works.append(_pass("norm", 2 * rows * channels, 2 * rows * channels))
    works.append(_pass("pool", 2 * rows * channels, 2 * batch * channels))
    return works


def block(rows: int, channels: int, heads: int, device: Device, int8_mode: int, *, gelu: bool = True) -> list[Work]:
    """One block; `rows` tokens of all images. Bytes: int8 between kernels, fp16 residual."""
    size, hidden = rows * channels, 4 * rows * channels
    works = [_pass("norm 1, shift, partition", 2 * size, size), _gemm("qkv", rows, channels, 3 * channels)]
    works += _attention(rows, channels, heads, fused=device.capability in FUSED_ATTENTION)
    works += [_gemm("proj", rows, channels, channels), _pass("reverse, roll", size, size)]
    works.append(_pass("bias, residual, norm 2", 3 * size, 3 * size))
    works.append(_gemm("fc1", rows, channels, 4 * channels))
    if gelu:
        works.append(_pass("bias, GELU", hidden, hidden))
    result = 4 if int8_mode == 2 else 1
    works.append(_gemm("fc2", rows, 4 * channels, channels, result=result))
    works.append(_pass("bias, residual", (2 + result) * size, 2 * size))
    return works


def _attention(rows: int, channels: int, heads: int, *, fused: bool) -> list[Work]:
    size, pairs = rows * channels, rows // TOKENS * heads * PADDED_TOKENS**2
    macs = rows // TOKENS * PADDED_TOKENS**2 * channels  # of one of the two products
    if fused:
        mha = Work("attention", 3 * size, size, 2 * macs, depth=channels // heads)
        return [_pass("qkv bias", 3 * size, 3 * size), mha, _pass("to COL32", size, size)]
    return [
        _pass("q, k bias", 2 * size, 2 * size),
        _pass("v bias", size, size),
        Work("q k", 2 * size, pairs, macs, depth=channels // heads),
        _pass("softmax", pairs, pairs),
        Work("weights v", size + pairs, size, macs, depth=PADDED_TOKENS),
        _pass("transpose, requantize", size, size),
    ]


def _gemm(name: str, rows: int, inputs: int, outputs: int, *, source: int = 1, result: int = 1) -> Work:
    read = source * rows * inputs + inputs * outputs
    return Work(name, read, result * rows * outputs, rows * inputs * outputs, depth=inputs)


def _pass(name: str, read: int, written: int) -> Work:
    return Work(name, read, written)
