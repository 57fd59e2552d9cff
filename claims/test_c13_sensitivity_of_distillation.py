"""c13: how sensitive is the distillation to its hyper-parameters and data?"""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_ablation_on_the_embedded_twins(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CHECK,
        would_run="learning rate, batch size, steps, data fraction and block order varied one at a time on the tiny twin, "
        "several seeds each; paired drops, Holm-corrected",
    )


def test_data_fraction_on_imagenet(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run="1, 3, 10 and 30 % of the training set by a stated rule, recipe 'paper', paired drop on the validation images",
    )
