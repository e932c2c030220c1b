"""Perceptual distances of the images of one condition, from activations of several layers of a network.

Every distance here is d(x, y) = sum over layers of the mean over positions of sum_c w_c (a_c(x) - a_c(y))^2,
where the activations a of each position are divided by their length (Zhang et al. 2018, "The unreasonable
effectiveness of deep features as a perceptual metric", eq. 1). With w >= 0 it is the squared distance of
embeddings, so its mean over all pairs is twice their unbiased variance: pairs are not listed.

`lpips-alex` and `lpips-vgg` are LPIPS of version 0.1 with its trained w. `effnet-layers` has w = 1 and layers
of EfficientNet-Lite0: it needs no download, and its values are not those of LPIPS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from distill.config.errors import UserError, did_you_mean
from distill.eval.images.resize import resize
from distill.networks import efficientnet_lite0
from distill.storage.tensors import check_weights, read_state, weights_sha256

NAMES = ("effnet-layers", "lpips-alex", "lpips-vgg")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of a colour in [-1, 1], as LPIPS has them."""
ALEX = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
"""Convolutions of AlexNet: channels, size, stride, padding. A ReLU follows each, a pool the first two."""
ALEX_LAYERS = (1, 4, 7, 9, 11)
VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of the convolutions of VGG-16, each followed by a ReLU, between its pools."""
VGG_LAYERS = (3, 8, 15, 22, 29)
EFFNET_SIZE = 224
EFFNET_BLOCKS = (0, 2, 4, 10, 15)
"""Last blocks of EfficientNet-Lite0 at each of its resolutions."""
SMALLEST = {"lpips-alex": 31, "lpips-vgg": 16}
"""Minimum height and width in pixels: with fewer, nothing is left at the last layer."""
EPSILON = 1e-10


class Perceptual(nn.Module):
    """Maps images (b, 3, h, w) in bytes to embeddings whose squared distances are the perceptual ones.

    The images may be on another device than the network, which has the embeddings.
    """

    name: str

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.parameters()).device

    def layers(self, images: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the activations that are compared."""
        raise NotImplementedError

    def weights(self) -> list[Float[Tensor, " _"]]:
        """Return the weights w of each layer's channels."""
        raise NotImplementedError

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b _"]:
        parts = []
        for activations, weight in zip(self.layers(images), self.weights(), strict=True):
            lengths = activations.square().sum(1, keepdim=True).sqrt()
            scaled = activations / (lengths + EPSILON) * weight.sqrt()[:, None, None]
            parts.append(scaled.flatten(1) / math.sqrt(activations[0, 0].numel()))
        return torch.cat(parts, 1)

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self)


class Lpips(Perceptual):
    """LPIPS: AlexNet or VGG-16 trained on ImageNet, and trained weights of the channels."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        if name == "lpips-alex":
            self.features, self.taps = _alexnet(), ALEX_LAYERS
            channels = [count for count, *_ in ALEX]
        else:
            self.features, self.taps = _vgg16(), VGG_LAYERS
            channels = [count for count, _ in VGG]
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in channels)

    def layers(self, images: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        least = SMALLEST[self.name]
        if min(images.shape[2:]) < least:
            size = f"{images.shape[3]}x{images.shape[2]}"
            raise UserError(f"{self.name}: images of {size} pixels; expected at least {least}x{least}")
        shift, scale = (torch.tensor(values, device=self.device)[:, None, None] for values in (SHIFT, SCALE))
        x = ((images.to(self.device).float() / 127.5 - 1) - shift) / scale
        found = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                found.append(x)
        return found

    def weights(self) -> list[Float[Tensor, " _"]]:
        return list(self.heads)


class EffnetLayers(Perceptual):
    """Layers of EfficientNet-Lite0, unweighted, of images resized to 224x224."""

    name = "effnet-layers"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.network: Any = efficientnet_lite0.load(weights, self.name)

    def layers(self, images: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        resized = torch.stack([resize("pil_bicubic", image, EFFNET_SIZE) for image in images.cpu()])
        found: list[Tensor] = []
        blocks = self.network._blocks
        hooks = [
            blocks[place].register_forward_hook(lambda module, inputs, output: found.append(output))
            for place in EFFNET_BLOCKS
        ]
        try:
            x = (resized - efficientnet_lite0.MEAN) / efficientnet_lite0.DEVIATION
            self.network.extract_features(x.to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def weights(self) -> list[Float[Tensor, " _"]]:
        return [torch.ones_like(self.network._blocks[place]._bn2.weight) for place in EFFNET_BLOCKS]


def _alexnet() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for place, (count, size, stride, padding) in enumerate(ALEX):
        layers += [nn.Conv2d(channels, count, size, stride, padding), nn.ReLU()]
        if place < 2:
            layers.append(nn.MaxPool2d(3, 2))
        channels = count
    return nn.Sequential(*layers)


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for place, (count, convolutions) in enumerate(VGG):
        if place:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, count, 3, padding=1), nn.ReLU()]
            channels = count
    return nn.Sequential(*layers)


def load_perceptual(text: str, heads: Path | None = None) -> Perceptual:
    """Open `NAME` or `NAME=PATH`.

    LPIPS needs the path of torchvision's file of weights of the network. The weights of its channels are
    those of `heads`, a file of PerceptualSimilarity, by default those that come with torchmetrics.
    """
    name, _, path = text.partition("=")
    if name not in NAMES:
        raise UserError(f"--perceptual {text}: '{name}' is no perceptual distance{did_you_mean(name, NAMES)}")
    if name == "effnet-layers":
        return EffnetLayers(path or None).eval().requires_grad_(False)
    if not path:
        expected = "the network's file of weights that torchvision publishes"
        raise UserError(f"--perceptual {name}: expected {name}=PATH with {expected}")
    network = Lpips(name)
    weights = {key: value for key, value in read_state(Path(path)).items() if key.startswith("features.")}
    backbone = nn.ModuleDict({"features": network.features})
    check_weights(backbone, weights, Path(path))
    backbone.load_state_dict(weights)
    _load_heads(network, heads or _installed_heads(name))
    return network.eval().requires_grad_(False)


def _installed_heads(name: str) -> Path:
    spec = find_spec("torchmetrics")
    assert spec is not None  # a dependency
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "functional" / "image" / "lpips_models"
    return folder / f"{name.removeprefix('lpips-')}.pth"


def _load_heads(network: Lpips, path: Path) -> None:
    """Read the weights of the channels; a negative one would make the distance of some images negative."""
    found = read_state(path)
    for place, head in enumerate(network.heads):
        key = f"lin{place}.model.1.weight"
        shape = tuple(found[key].shape) if key in found else "nothing"
        if shape != (1, len(head), 1, 1):
            raise UserError(
                f"{path}: is no file of {network.name}: {key} is {shape}; expected (1, {len(head)}, 1, 1)"
            )
        if found[key].min() < 0:
            raise UserError(f"{path}: {key} has negative weights; expected none, as LPIPS is trained")
        head.data = found[key].float().reshape(-1)


@torch.inference_mode()
def mean_pairwise_distance(network: Perceptual, images: Iterable[UInt8[Tensor, "c h w"]]) -> float:
    """Return the mean perceptual distance of all pairs of at least two images, which come one after another.

    Grey images are read as colour. Memory holds one embedding and their sum.
    """
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), 0.0
    for image in images:
        embedding = network(image.expand(3, -1, -1)[None])[0].cpu().double()
        if count and len(embedding) != len(total):
            raise UserError(f"{network.name}: images of one prompt or label have several sizes")
        total = embedding if not count else total + embedding
        squares += float(embedding.square().sum())
        count += 1
    spread = squares - float(total.square().sum()) / count
    return max(0.0, 2 * spread / (count - 1))
