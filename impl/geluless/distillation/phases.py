"""The three phases that recipes are made of. Each step of a phase swaps, trains, judges and records; the loop only saves."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from geluless.distillation.local import TokenStreams, fit_mlp
from geluless.distillation.networks import Networks, SplitImages
from geluless.distillation.recipes import LocalSettings, Recipe, SoftLabelSettings
from geluless.distillation.records import BlockRecord
from geluless.distillation.soft_labels import SoftLabels, held_out_divergence, ran_away, status_of, train


class Phase(Protocol):
    """One phase of a recipe; it makes one record per name in `steps`."""

    steps: list[str]

    def run(self, done: int) -> Iterator[BlockRecord]:
        """Take the steps after the first `done`, whose weights the student already has, and yield a record after each."""
        ...


def phases_of(recipe: Recipe, networks: Networks, images: SplitImages) -> list[Phase]:
    """In the order in which they run."""
    phases: list[Phase] = []
    if recipe.local:
        phases.append(LocalPhase(recipe.local, networks, images))
    if recipe.soft_labels:
        phases.append(SoftLabelPhase(recipe.soft_labels, networks, images))
    if recipe.finetune:
        phases.append(FinetunePhase(recipe.finetune, networks, images))
    return phases


class LocalPhase:
    """Block after block: swap it and refit its MLP to what the teacher's block puts out. No loss sees the whole network."""

    def __init__(self, settings: LocalSettings, networks: Networks, images: SplitImages) -> None:
        self.steps = networks.blocks
        self._settings, self._networks, self._images = settings, networks, images

    def run(self, done: int) -> Iterator[BlockRecord]:
        networks, held_out = self._networks, self._images.held_out_labels
        training = self._images.training(self._settings.images)
        seen = (training, held_out.images)
        taught = (self._images.taught(training), self._images.taught(held_out.images))
        walk = TokenStreams(networks.teacher, networks.student, seen, taught).walk()
        for index, (name, (block, tokens)) in enumerate(zip(self.steps, islice(walk, len(self.steps)), strict=True)):
            if index < done:
                continue
            started = time.perf_counter()
            networks.swap(index + 1)
            fit = fit_mlp(block.mlp, tokens, self._settings, networks.generator("local", name))
            _, agreement = held_out_divergence(networks.student, held_out, 1.0)
            seconds = time.perf_counter() - started
            losses = (fit.loss_before, fit.loss, fit.held_out_before, fit.held_out)
            yield BlockRecord(name, "local", *losses, agreement, seconds, fit.status, fit.curve)


class SoftLabelPhase:
    """Block after block: swap it, then train the whole network on the teacher's soft labels."""

    name = "soft labels"
    stream = "soft labels"  # of random numbers

    def __init__(self, settings: SoftLabelSettings, networks: Networks, images: SplitImages) -> None:
        self.steps = networks.blocks
        self._settings, self._networks, self._images = settings, networks, images

    def run(self, done: int) -> Iterator[BlockRecord]:
        for index, name in enumerate(self.steps[done:], start=done):
            self._networks.swap(index + 1)
            yield self._trained(name)

    def _trained(self, name: str) -> BlockRecord:
        student, settings = self._networks.student, self._settings
        labels, held_out = self._images.training_labels, self._images.held_out_labels
        count = len(held_out.images)
        sample = SoftLabels(labels.images[:count], labels.logits[:, :count])  # of the training images, as many as are held out

        def judged() -> tuple[float, float, float]:
            """(training divergence, held-out divergence, held-out agreement)"""
            training, _ = held_out_divergence(student, sample, settings.temperature)
            return training, *held_out_divergence(student, held_out, settings.temperature)

        started = time.perf_counter()
        before, weights = judged(), copy.deepcopy(student.state_dict())
        curve = train(student, labels, settings, self._networks.generator(self.stream, name))
        after = judged()
        status = status_of(curve, before[:2], after[:2])
        if ran_away(curve, before[1], after[1]):  # undone, or every later block would suffer; the curve shows it
            student.load_state_dict(weights)
            after = before
        seconds = time.perf_counter() - started
        losses = (before[0], after[0], before[1], after[1])
        return BlockRecord(name, self.name, *losses, after[2], seconds, status, tuple(curve))


class FinetunePhase(SoftLabelPhase):
    """Once, when every block is swapped: train the whole network on the teacher's soft labels."""

    name = "finetune"
    stream = "polish"  # what this phase was called first: under another word a seed would give other weights

    def __init__(self, settings: SoftLabelSettings, networks: Networks, images: SplitImages) -> None:
        super().__init__(settings, networks, images)
        self.steps = ["all blocks"]

    def run(self, done: int) -> Iterator[BlockRecord]:
        for name in self.steps[done:]:
            yield self._trained(name)
