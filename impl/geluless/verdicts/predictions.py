"""Per-image predictions as the report stores them: small, self-contained, and checked when they are read.

A vector is stored as its difference to the labels modulo 256, which is nearly all zeros: uint8, zlib, base64.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Stored = Mapping[str, Mapping[str, np.ndarray]]  # class indices, uint8 [N], by task and variant


def pack_predictions(labels: Mapping[str, np.ndarray], predictions: Stored) -> dict[str, Any]:
    """JSON: {"labels": {sha256: text}, "tasks": {task: {"labels": sha256, "variants": {variant: text}}}}.

    `labels`, uint8 [N], by task. A variant may have predictions for the first images only.
    """
    texts: dict[str, str] = {}
    tasks = {}
    for task, variants in predictions.items():
        own = labels[task].astype(np.uint8)
        digest = hashlib.sha256(own.tobytes()).hexdigest()
        texts[digest] = _text(own)
        packed = {variant: _text(values.astype(np.uint8) - own[: len(values)]) for variant, values in variants.items()}
        tasks[task] = {"labels": digest, "variants": packed}
    return {"labels": texts, "tasks": tasks}


def read_predictions(stored: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """(labels by task, predictions by task and variant), each uint8 [N]. Raises ValueError where labels do not bear their
    digest."""
    known = {digest: _values(text) for digest, text in stored["labels"].items()}
    for digest, values in known.items():
        if hashlib.sha256(values.tobytes()).hexdigest() != digest:
            raise ValueError(f"labels {digest[:16]} do not have that digest: the record was changed after it was written")
    labels, predictions = {}, {}
    for task, entry in stored["tasks"].items():
        labels[task] = known[entry["labels"]]
        found = {variant: _values(text) for variant, text in entry["variants"].items()}
        predictions[task] = {variant: values + labels[task][: len(values)] for variant, values in found.items()}
    return labels, predictions


def _text(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode("ascii")


def _values(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
