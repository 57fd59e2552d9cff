"""Distil soft labels end to end: the student's class probabilities follow the teacher's at a raised temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geluless.distillation.recipes import SoftLabelSettings
from geluless.distillation.records import Status


@dataclass(frozen=True)
class SoftLabels:
    """The teacher's logits, computed once: images [N, C, H, W] as they are and mirrored."""

    images: Tensor
    logits: Tensor  # float32 [2, N, classes]; 0: as they are, 1: mirrored left to right

    @classmethod
    @torch.inference_mode()
    def of(cls, teacher: nn.Module, images: Tensor, *, batch_size: int = 256) -> SoftLabels:
        def run(batches: tuple[Tensor, ...]) -> Tensor:
            return torch.cat([teacher(batch) for batch in batches])

        plain, mirrored = images.split(batch_size), tuple(batch.flip(3) for batch in images.split(batch_size))
        return cls(images, torch.stack([run(plain), run(mirrored)]).clone())


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened probabilities, mean over the batch, in nats."""
    student_log = F.log_softmax(student / temperature, 1)
    teacher_log = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


@torch.inference_mode()
def held_out_divergence(student: nn.Module, labels: SoftLabels, temperature: float) -> tuple[float, float]:
    """(divergence, top-1 agreement with the teacher) on un-mirrored images."""
    logits = torch.cat([student(batch) for batch in labels.images.split(256)])
    agreement = (logits.argmax(1) == labels.logits[0].argmax(1)).float().mean().item()
    return divergence(logits, labels.logits[0], temperature).item(), agreement


def train(
    student: nn.Module, labels: SoftLabels, settings: SoftLabelSettings, generator: torch.Generator
) -> list[tuple[int, float]]:
    """AdamW over random mirrored batches with linear decay; returns the learning curve. Stops when the loss is not finite."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True)
    count = len(labels.images)
    batch_size = min(settings.batch_size, count)
    steps = max(1, round(settings.epochs * count / batch_size))
    curve = []
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        index, order = order[:batch_size].to(labels.images.device), order[batch_size:]
        mirrored = int(torch.randint(2, (), generator=generator))
        images = labels.images[index].flip(3) if mirrored else labels.images[index]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / steps)
        loss = divergence(student(images), labels.logits[mirrored][index], settings.temperature)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
        optimizer.step()
        if step % 5 == 0 or step == steps - 1:
            curve.append((step, loss.item()))
            if not math.isfinite(curve[-1][1]):
                break
    return curve


RUNAWAY = 2.0  # held-out loss over that of the plain swap: far outside what the noise of one epoch does


def ran_away(curve: list[tuple[int, float]], held_out_before: float, held_out: float) -> bool:
    """Whether training has to be undone. One that merely failed to gain is kept, as the paper's method would, and named."""
    finite = math.isfinite(held_out) and all(math.isfinite(loss) for _, loss in curve)
    return not finite or held_out > RUNAWAY * held_out_before


def status_of(curve: list[tuple[int, float]], before: tuple[float, float], after: tuple[float, float]) -> Status:
    """before, after: (training, held-out) divergences."""
    if not all(math.isfinite(value) for value in (*after, *(loss for _, loss in curve))):
        return Status.NOT_CONVERGED
    if after[0] < before[0] and after[1] > 1.05 * before[1]:
        return Status.OVERFIT
    return Status.NOT_CONVERGED if after[0] > before[0] else Status.OK
