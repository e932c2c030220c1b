"""Values of clean-fid's resizing and distance and of torch-fidelity's network, computed by these packages.

Both packages import torchvision, of which PyPI has no build for torch without CUDA, and torchmetrics imports
torch-fidelity if it is installed. So `make test` installs them in a folder of their own, and a process of its
own reads them from there. It loads the modules that it needs, which do not need torchvision, without their
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

from distill.eval.features.inception import Inception
from tests.helpers.gaussian_pairs import pairs
from tests.helpers.seeded_weights import normal

SIZES = ((8, 8), (32, 32), (64, 64), (256, 256), (427, 640), (1024, 1024))


def packages() -> Path:
    """Return the folder of the two packages: FIDELITY_PACKAGES, or `oracles` in the environment's folder."""
    return Path(os.environ.get("FIDELITY_PACKAGES", Path(sys.prefix) / "oracles"))


def noise_image(height: int, width: int) -> torch.Tensor:
    """Return random bytes (3, height, width)."""
    random = np.random.default_rng(height * width)
    return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))


def without_its_package(name: str, module: str) -> Any:
    """Import a module of a package without running the package's `__init__`."""
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{module}")


def seeded_inception() -> Inception:
    """Build the network with weights that follow from their names.

    They have unit gain, and the normalisations are not quite neutral.
    """
    with torch.device("meta"):
        network = Inception().eval()
    state = {
        name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()
    }
    for name, value in state.items():
        if value.ndim > 1:
            state[name] = 1.5 * normal(name, tuple(value.shape)) / value[0].numel() ** 0.5
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * normal(name, tuple(value.shape))
        elif name.endswith(("weight", "running_var")):
            state[name] = 1 + 0.1 * normal(name, tuple(value.shape)).abs()
    network.load_state_dict(state, assign=True)
    return network


def main(out: Path) -> None:
    """Write `values.npz` with the packages' values to a folder that holds the network's weights."""
    sys.path.append(str(packages()))
    clean = without_its_package("cleanfid", "resize").build_resizer("clean")
    extractors = without_its_package("torch_fidelity", "feature_extractor_inceptionv3")
    # clean-fid's distance is in a module that imports two others, which import torchvision. The distance
    # needs neither.
    unused: dict[str, tuple[str, ...]] = {
        "features": ("build_feature_extractor", "get_reference_statistics"),
        "utils": (),
    }
    for module, names in unused.items():
        sys.modules[f"cleanfid.{module}"] = types.ModuleType(module)
        vars(sys.modules[f"cleanfid.{module}"]).update(dict.fromkeys(names))
    distance = without_its_package("cleanfid", "fid").frechet_distance
    tensorflow = without_its_package(
        "torch_fidelity", "interpolate_compat_tensorflow"
    ).interpolate_bilinear_2d_like_tensorflow1x
    values: dict[str, np.ndarray] = {}
    for height, width in SIZES:
        image = noise_image(height, width)
        values[f"clean {height} {width}"] = clean(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1)
        values[f"tensorflow {height} {width}"] = tensorflow(
            image[None].float(), size=(299, 299), align_corners=False
        )[0].numpy()
    for name, (a, b) in pairs().items():
        values[f"distance {name}"] = np.asarray(
            distance(a.mean.numpy(), a.cov.numpy(), b.mean.numpy(), b.cov.numpy())
        )
    network = extractors.FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(out / "inception.pth")
    )
    with torch.no_grad():
        features, logits = network(torch.stack([noise_image(64, 64), noise_image(64, 64).flip(2)]))
    np.savez(out / "values.npz", features=features.numpy(), logits=logits.numpy(), **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
