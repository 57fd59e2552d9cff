"""An artifact through the compiled engine of the geluless that is installed: `python -I installed.py ARTIFACT`.

Imports nothing of the repository: the interpreter is that of an environment with the wheel, numpy and safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

NOT_NEEDED = {"matplotlib", "pandas", "pytest", "scipy", "statsmodels", "timm", "torch", "torchvision"}


def main() -> None:
    import numpy as np

    import geluless

    [path] = sys.argv[1:]
    artifact = geluless.load_artifact(path)
    compiled, reference = geluless.Engine(artifact, backend="cpu", threads=2), geluless.Engine(artifact)
    if compiled.backend != "cpu":
        sys.exit("the compiled engine is not in the wheel")
    stem = artifact.plan.stem
    images = np.random.default_rng(0).standard_normal((4, stem.channels, stem.height, stem.width), dtype=np.float32)
    logits = compiled(images)
    if not np.array_equal(logits, reference(images)):
        sys.exit("the compiled engine's logits are not the reference's")
    if not logits.std(axis=0).any():
        sys.exit("four different images, the same logits: this would find no difference between the engines either")
    if loaded := sorted(NOT_NEEDED & set(sys.modules)):
        sys.exit(f"running an artifact imported {', '.join(loaded)}")
    folder = Path(geluless.__file__).parent
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    release = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {release}, geluless {geluless.__version__} ({size / 1e6:.2f} MB): {compiled.isa} gives the reference's logits")


if __name__ == "__main__":
    main()
