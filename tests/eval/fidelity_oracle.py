"""Values of clean-fid's resizing and torch-fidelity's network, from where the two are installed, apart from everything else:

`pip install --no-deps --target DIR clean-fid==0.1.35 torch-fidelity==0.4.0`, and the tests with FIDELITY_PACKAGES=DIR.

Both packages import torchvision, of which PyPI has no build for torch without CUDA, and torchmetrics imports torch-fidelity where it finds it. So
they are looked for in a folder of their own by a process of its own, and the modules used here, which need no torchvision, are loaded without their
packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZES = ((8, 8), (32, 32), (64, 64), (256, 256), (427, 640), (1024, 1024))


def packages() -> str:
    """The folder of the two packages; empty where there is none."""
    return os.environ.get("FIDELITY_PACKAGES", "")


def noise_image(height: int, width: int) -> torch.Tensor:
    """Bytes (3, height, width) that any resizing must get right: noise."""
    random = np.random.default_rng(height * width)
    return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))


def without_its_package(name: str, module: str) -> Any:
    """A module of a package whose `__init__` is not run."""
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{module}")


def main(out: Path) -> None:
    sys.path.append(packages())
    clean = without_its_package("cleanfid", "resize").build_resizer("clean")
    extractors = without_its_package("torch_fidelity", "feature_extractor_inceptionv3")
    tensorflow = without_its_package("torch_fidelity", "interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    values: dict[str, np.ndarray] = {}
    for height, width in SIZES:
        image = noise_image(height, width)
        values[f"clean {height} {width}"] = clean(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1)
        values[f"tensorflow {height} {width}"] = tensorflow(image[None].float(), size=(299, 299), align_corners=False)[0].numpy()
    network = extractors.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(out / "inception.pth"))
    with torch.no_grad():
        features, logits = network(torch.stack([noise_image(64, 64), noise_image(64, 64).flip(2)]))
    np.savez(out / "values.npz", features=features.numpy(), logits=logits.numpy(), **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
