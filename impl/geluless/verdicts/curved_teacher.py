"""Micro networks that need their GELU as a real network does: the shipped teachers, made to use the part that ReLU lacks.

The shipped teachers are tame: the naive swap costs them a point, and correcting biases gives nearly all of it back. A pretrained
ViT-S/14 is destroyed by the naive swap (cosine of its class token to the right one -0.08 over 16 photos), and correcting biases
brings 0.92; of its GELUs' inputs 17 % are positive, where half of the shipped teachers' are. The less is positive and the smaller
the inputs, the more of what an MLP passes on goes through GELU's negative part, which ReLU cuts off:

    GELU(x) = x / 2 + x^2 / sqrt(2 pi) - ...        ReLU(x) = x / 2 + |x| / 2        near zero

and what is cut off varies from token to token, so no bias holds it. Here each unit of fc1 is shifted until 17 % of its outputs
are positive, fc1 is scaled until they have a stated root mean square, and fc2 is solved for to put out what the teacher's block
does: a linear least-squares fit. The network computes nearly what it did; how nearly, its accuracy says, which is judged.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformer

from geluless.data.balance import balanced_indices
from geluless.distillation.local import TokenStreams, refit_fc2

if TYPE_CHECKING:
    from geluless.data import ImageSource

IMAGES = 2048  # class-balanced training images whose tokens fc2 is solved for
POSITIVE = 0.17  # of each unit's outputs on these tokens, as in the real network
RMS = 0.7  # of GELU's inputs in every block: so that the corrected swap comes as far as in the real network, on training images
RIDGE = 1e-6  # as small as float32 features bear: the parts in x^2, which must be found, hold little of their energy


@torch.no_grad()
def curved_teacher(teacher: SwinTransformer, images: ImageSource, *, count: int = IMAGES) -> SwinTransformer:
    """A GELU network of the teacher's shape and nearly its function, POSITIVE of each GELU's inputs positive, RMS their size.

    Block after block on its own stream, so that later blocks make up for what earlier ones changed; deterministic, in closed
    form. The teacher is left as it is. `images`: training images, at least `count` of them; labels only balance their choice.
    """
    chosen = balanced_indices(images.labels, count)
    pixels = torch.cat(list(images.batches(256, indices=chosen)))
    curved = copy.deepcopy(teacher)
    for block, tokens in TokenStreams(teacher, curved, pixels, pixels[:0]).walk():
        mlp: Mlp = block.mlp
        hidden = mlp.fc1(tokens.inputs)
        zero = hidden.kthvalue(round((1 - POSITIVE) * len(hidden)), dim=0).values
        scale = RMS / (hidden - zero).square().mean().sqrt()
        mlp.fc1.bias -= zero
        mlp.fc1.weight *= scale
        mlp.fc1.bias *= scale
        mlp.fc2.weight /= scale
        refit_fc2(mlp, tokens.inputs, tokens.targets, ridge=RIDGE)
    return curved
