"""Inception-v3 of 2015-12-05, the network of Fréchet Inception Distances (Heusel et al. 2017).

It is TensorFlow's network, which is not torchvision's: average pools do not count the padding, and the last
block takes a maximum. The weights are the `.pth` of torch-fidelity and pytorch-fid, or NVIDIA's TorchScript
`inception-2015-12-05.pt`, which clean-fid uses. All hold the same numbers.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.eval.features import Extractor
from distill.storage.tensors import check_weights, read_state

FILE = "pt_inception-2015-12-05-6726825d.pth"
"""The digits at the end of the name are the first of the file's SHA-256, which is checked."""
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
FILES = f"{FILE} or inception-2015-12-05.pt"


class Unit(nn.Module):
    """Convolution, batch normalisation and ReLU.

    With a stride of 1, padding keeps the size, unless `padded` is false.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        padding = (size[0] // 2, size[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average(x: Tensor) -> Tensor:
    """Average over 3x3 pixels as TensorFlow does: the padding does not count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Take the maximum over 3x3 pixels and keep the size."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halved(x: Tensor) -> Tensor:
    """Take the maximum over 3x3 pixels with a stride of 2."""
    return F.max_pool2d(x, 3, stride=2)


class Block35(nn.Module):
    """A block at 35x35 with four branches: 1x1, 5x5, twice 3x3, and a pool."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inputs, 64, (1, 1))
        self.branch5x5_1 = Unit(inputs, 48, (1, 1))
        self.branch5x5_2 = Unit(48, 64, (5, 5))
        self.branch3x3dbl_1 = Unit(inputs, 64, (1, 1))
        self.branch3x3dbl_2 = Unit(64, 96, (3, 3))
        self.branch3x3dbl_3 = Unit(96, 96, (3, 3))
        self.branch_pool = Unit(inputs, pooled, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        single = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class Reduction17(nn.Module):
    """Reduces 35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(inputs, 384, (3, 3), stride=2, padded=False)
        self.branch3x3dbl_1 = Unit(inputs, 64, (1, 1))
        self.branch3x3dbl_2 = Unit(64, 96, (3, 3))
        self.branch3x3dbl_3 = Unit(96, 96, (3, 3), stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, halved(x)], 1)


class Block17(nn.Module):
    """A block at 17x17 whose 7x7 convolutions are split into rows and columns of `width` channels."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inputs, 192, (1, 1))
        self.branch7x7_1 = Unit(inputs, width, (1, 1))
        self.branch7x7_2 = Unit(width, width, (1, 7))
        self.branch7x7_3 = Unit(width, 192, (7, 1))
        self.branch7x7dbl_1 = Unit(inputs, width, (1, 1))
        self.branch7x7dbl_2 = Unit(width, width, (7, 1))
        self.branch7x7dbl_3 = Unit(width, width, (1, 7))
        self.branch7x7dbl_4 = Unit(width, width, (7, 1))
        self.branch7x7dbl_5 = Unit(width, 192, (1, 7))
        self.branch_pool = Unit(inputs, 192, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class Reduction8(nn.Module):
    """Reduces 17x17 to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(inputs, 192, (1, 1))
        self.branch3x3_2 = Unit(192, 320, (3, 3), stride=2, padded=False)
        self.branch7x7x3_1 = Unit(inputs, 192, (1, 1))
        self.branch7x7x3_2 = Unit(192, 192, (1, 7))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1))
        self.branch7x7x3_4 = Unit(192, 192, (3, 3), stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, halved(x)], 1)


class Block8(nn.Module):
    """A block at 8x8 whose two 3x3 branches end in a row and a column side by side.

    The pool of the last block of the network takes a maximum, that of the other one an average.
    """

    def __init__(self, inputs: int, last: bool) -> None:
        super().__init__()
        self.pool = maximum if last else average
        self.branch1x1 = Unit(inputs, 320, (1, 1))
        self.branch3x3_1 = Unit(inputs, 384, (1, 1))
        self.branch3x3_2a = Unit(384, 384, (1, 3))
        self.branch3x3_2b = Unit(384, 384, (3, 1))
        self.branch3x3dbl_1 = Unit(inputs, 448, (1, 1))
        self.branch3x3dbl_2 = Unit(448, 384, (3, 3))
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1))
        self.branch_pool = Unit(inputs, 192, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ends = [
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
        ]
        return torch.cat([self.branch1x1(x), *ends, self.branch_pool(self.pool(x))], 1)


class Inception(Extractor):
    """Maps images of 299x299 to 2048 features after the last pool, and to logits (b, 1008).

    The logits have no bias, as Inception scores use them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, (3, 3), stride=2, padded=False)
        self.Conv2d_2a_3x3 = Unit(32, 32, (3, 3), padded=False)
        self.Conv2d_2b_3x3 = Unit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Unit(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Unit(80, 192, (3, 3), padded=False)
        self.Mixed_5b = Block35(192, 32)
        self.Mixed_5c = Block35(256, 64)
        self.Mixed_5d = Block35(288, 64)
        self.Mixed_6a = Reduction17(288)
        self.Mixed_6b = Block17(768, 128)
        self.Mixed_6c = Block17(768, 160)
        self.Mixed_6d = Block17(768, 160)
        self.Mixed_6e = Block17(768, 192)
        self.Mixed_7a = Reduction8(768)
        self.Mixed_7b = Block8(1280, last=False)
        self.Mixed_7c = Block8(2048, last=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Float[Tensor, "b 3 299 299"]) -> dict[str, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3((images - 128) / 128)))
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halved(x))))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))))
        features = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
        return {"features": features, "logits": features @ self.fc.weight.T}


class ScriptedInception(Extractor):
    """NVIDIA's TorchScript file, without its own resizing. It gives no logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, images: Float[Tensor, "b 3 299 299"]) -> dict[str, Tensor]:
        return {"features": self.base.layers((images - 128) / 128).reshape(len(images), -1)}  # type: ignore[operator]


def load(weights: str | None) -> Extractor:
    """Open a file of weights; without one, download torch-fidelity's."""
    if weights is None:
        return _inception(_download(), Path(FILE))
    path = Path(weights)
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file; expected {FILES}")
    if path.suffix == ".pkl":
        raise UserError(
            f"--weights {path}: a pickle is a program, and none is run; the same network is in {FILES}"
        )
    return _scripted(path) if _is_torchscript(path) else _inception(read_state(path), path)


def _inception(tensors: dict[str, Tensor], path: Path) -> Inception:
    """Build the network with these weights; `path` names them in messages."""
    with torch.device("meta"):  # initialising random weights would take seconds
        network = Inception()
    # Some files have no counters of the batch normalisations.
    counters = {
        name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")
    }
    check_weights(network, counters | tensors, path)
    network.load_state_dict(counters | tensors, assign=True)
    return network


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _scripted(path: Path) -> ScriptedInception:
    try:
        base = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be read as TorchScript") from error
    if not hasattr(base, "layers"):
        raise UserError(f"{path}: a TorchScript module without 'layers'; expected inception-2015-12-05.pt")
    return ScriptedInception(base)


def _download() -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(URL, map_location="cpu", check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{URL}: cannot be downloaded ({error}); give the file with --weights") from error
