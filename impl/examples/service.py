"""A web service on one artifact: POST a photo, get the likeliest classes as JSON. From this folder:

    pip install gunicorn
    gunicorn --preload --workers 4 'service:application("swin.int8.safetensors")'
    curl --data-binary @photo.jpg http://127.0.0.1:8000/

With --preload the artifact is read, checked and packed once, before gunicorn forks its workers: all of them share that memory,
and one that is started anew after a crash serves at once. A worker has one thread and takes one photo at a time; take as many
workers as there are processors.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import geluless

LARGEST = 20 << 20  # bytes of a photo
SHOWN = 5  # classes
Answer = Callable[[str, list[tuple[str, str]]], object]


class NoPhoto(ValueError):
    """What was sent cannot be decoded."""


def application(
    artifact: str,
    *,
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),  # these four are timm's for its Swins: model.pretrained_cfg
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    crop: float = 0.9,
    classes: tuple[str, ...] = (),
) -> Callable[[dict[str, Any], Answer], Iterable[bytes]]:
    """The WSGI application of one artifact file; `mean`, `std` and `crop` are those that the network was trained with."""
    engine = geluless.Engine(geluless.load_artifact(artifact), backend="cpu", threads=1)
    stem = engine.artifact.plan.stem
    offset, scale = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))

    def prepared(photo: bytes) -> NDArray[np.float32]:
        """float32 [1, C, H, W], as timm prepares a photo for validation: the middle of it, resized, normalised."""
        try:
            with Image.open(io.BytesIO(photo)) as image:
                pixels = image.convert("L" if stem.channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise NoPhoto(f"this is no photo that can be decoded ({error})") from None
        targets = (math.floor(stem.width / crop), pixels.width), (math.floor(stem.height / crop), pixels.height)
        to, of = max(targets, key=lambda pair: pair[0] / pair[1])
        pixels = pixels.resize((pixels.width * to // of, pixels.height * to // of), Image.Resampling.BICUBIC)
        left, top = round((pixels.width - stem.width) / 2), round((pixels.height - stem.height) / 2)
        middle = np.asarray(pixels.crop((left, top, left + stem.width, top + stem.height)), np.float32)
        planes = middle.reshape(1, stem.height, stem.width, stem.channels).transpose(0, 3, 1, 2)
        normalised: NDArray[np.float32] = (planes / np.float32(255) - offset) / scale
        return normalised

    def respond(request: dict[str, Any]) -> tuple[HTTPStatus, dict[str, Any]]:
        if request["REQUEST_METHOD"] != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, {"error": "POST a photo"}
        photo = request["wsgi.input"].read(LARGEST + 1)
        if len(photo) > LARGEST:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"a photo has {LARGEST} bytes at most"}
        try:
            logits = engine(prepared(photo))[0]
        except NoPhoto as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        odds = np.exp(logits - logits.max(), dtype=np.float64)
        best = np.argsort(-logits, kind="stable")[:SHOWN].tolist()
        top = [{"class": classes[i] if classes else i, "probability": odds[i] / odds.sum()} for i in best]
        return HTTPStatus.OK, {"classes": top}

    def serve(request: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        status, content = respond(request)
        body = json.dumps(content).encode()
        answer(f"{status.value} {status.phrase}", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return serve
