"""One atomic file per run: a killed run goes on after its last finished block, to the very same weights."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geluless.errors import CheckpointError
from geluless.files import write_whole

NAME = "distillation"
FILE = f"{NAME}.pt"


@dataclass(frozen=True)
class RunIdentity:
    """Whatever decides a run's bits; a checkpoint of another identity is refused."""

    recipe: str
    seed: int
    teacher: str  # sha256 of its weights
    images: str  # digest of the image source
    threads: int  # the order of float additions depends on it

    def differences(self, other: dict[str, Any]) -> list[str]:
        mine = vars(self)
        return [key for key in mine if other.get(key) != mine[key]]


class RunCheckpoint:
    """Saves and restores (student weights, records so far) under a folder."""

    def __init__(self, folder: Path, identity: RunIdentity) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.identity = identity

    def save(self, student: dict[str, torch.Tensor], records: list[dict[str, Any]]) -> None:
        """At every moment the file is the old one or the new one, whole. Raises OutputError."""
        content = io.BytesIO()
        torch.save({"identity": vars(self.identity), "student": student, "records": records}, content)
        write_whole(self.path, content.getbuffer())

    def load(self) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]] | None:
        """None when there is nothing yet. Raises CheckpointError for another run's or an unreadable file."""
        if not self.path.exists():
            return None
        fix = f"delete {self.path} to start afresh, or give another folder"
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            different = self.identity.differences(state["identity"])
            student, records = state["student"], state["records"]
        except Exception as error:  # torch.load of damaged bytes raises many kinds; all mean the same to the user
            raise CheckpointError(f"{self.path} cannot be read ({type(error).__name__}): {fix}") from error
        if different == ["threads"]:
            begun = state["identity"].get("threads")
            raise CheckpointError(
                f"{self.path} was begun with --threads {begun}, on which the order of float additions depends: continue it with "
                f"that (in Python torch.set_num_threads({begun})), or {fix}"
            )
        if different:
            raise CheckpointError(f"{self.path} belongs to a run with another {', '.join(different)}: {fix}")
        return student, records


def threads_begun_with(folder: Path) -> int | None:
    """Of the run whose progress lies in the folder; None where there is none, or none that can be read, as `load` will say."""
    try:
        state = torch.load(folder / FILE, map_location="cpu", weights_only=True, mmap=True)
        return int(state["identity"]["threads"])
    except Exception:
        return None
