"""Growing a twin: the grown network starts where the small one ended, and is no mere copy of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from geluless.models import MICRO_CONFIGS
from geluless.models.micro import create_micro, init_twin

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
from grow import grow

IMAGES = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(4))


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_micro("swin_micro_tiny")
    init_twin(model, fc2_gain=1.5)
    with torch.no_grad():
        model.head.fc.weight.mul_(20)
    return model.eval()


@torch.inference_mode()
def correlation(a: torch.nn.Module, b: torch.nn.Module) -> float:
    logits = torch.stack([model.eval()(IMAGES).flatten() for model in (a, b)])
    return torch.corrcoef(logits)[0, 1].item()


@pytest.mark.parametrize("name", [name for name in MICRO_CONFIGS if name != "swin_micro_tiny"])
def test_a_grown_network_computes_nearly_the_same_function(name):
    small, large = small_network(), create_micro(name)
    assert abs(correlation(small, large)) < 0.7, "control: an unrelated network must not pass"
    grow(small, large)
    assert correlation(small, large) > 0.8


def test_doubling_the_width_keeps_the_function_exactly(monkeypatch):
    monkeypatch.setattr("grow.JITTER", 0.0)
    monkeypatch.setitem(MICRO_CONFIGS, "wide", dataclasses.replace(MICRO_CONFIGS["swin_micro_tiny"], embed_dim=32))
    small, wide = small_network(), create_micro("wide").eval()
    grow(small, wide)
    with torch.inference_mode():
        assert torch.allclose(wide(IMAGES), small(IMAGES), atol=1e-4)


def test_copies_of_a_unit_differ_so_that_training_can_tell_them_apart():
    large = create_micro("swin_micro_large")
    grow(small_network(), large)
    fc1 = large.layers[0].blocks[0].mlp.fc1.weight
    assert not torch.allclose(fc1[:64], fc1[64:], atol=1e-3)


def test_growing_is_deterministic():
    first, second = create_micro("swin_micro_base"), create_micro("swin_micro_base")
    for model in (first, second):
        grow(small_network(), model, seed=7)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_networks_do_not_shrink():
    with pytest.raises(ValueError, match="cannot shrink"):
        grow(create_micro("swin_micro_large"), create_micro("swin_micro_tiny"))
