"""References that generated images are compared with: real images, or published statistics of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.data.archives import UNREADABLE_ARRAYS
from distill.eval.fid.results import ReferenceOrigin
from distill.eval.frechet import Statistics
from distill.eval.images.extraction import Features
from distill.eval.protocols import Protocol
from distill.storage.tensors import file_sha256

ASYMMETRY = 1e-5
"""Asymmetry that single precision may leave in a symmetric matrix, relative to its largest element."""
EDM2_NAMES = {"inception": "fid", "dinov2": "fd_dinov2"}
"""Our names of features, and the names of their distances in a statistics file of EDM2."""
MADE_FOR = {
    "EDM2": ("edm-50k", "fd-dinov2"),
    "EDM": ("edm-50k",),
    "ADM": (),
    "clean-fid, clean": ("clean", "mjhq-30k"),
    "clean-fid, legacy_tensorflow": ("clean-legacy", "edm-50k", "coco30k"),
    "clean-fid, legacy_pytorch": (),
    "FD-loss, ConvNeXt": ("fd-convnext",),
    "FD-loss, MAE": ("fd-mae",),
    "FD-loss, at other sizes": (),
}
"""Publishers of statistics, and the protocols whose resizing and network they used.

ADM's network is TensorFlow's of 2015 and its resizing its own, so its statistics fit none.
"""
NAMED = (
    (r".*_(legacy_tensorflow)_.*|cifar10_legacy_tensorflow.*", "clean-fid, legacy_tensorflow"),
    (r".*_(legacy_pytorch)_.*", "clean-fid, legacy_pytorch"),
    (r".*_clean_.*", "clean-fid, clean"),
    (r"VIRTUAL_.*", "ADM"),
    (r"(cifar10-32x32|ffhq-64x64|afhqv2-64x64|imagenet-64x64)", "EDM"),
    (r"img(512|64)(-.*)?", "EDM2"),
    (r"convnext_in256_t224_stats", "FD-loss, ConvNeXt"),
    (r"vit_large_patch16_224_mae_in256_t224_stats", "FD-loss, MAE"),
    (r"vit_.*_in\d+_t\d+_stats", "FD-loss, at other sizes"),
)
"""Names under which statistics were published, without their endings, and their publishers."""

Arrays = Mapping[str, np.ndarray]
"""The mean `mu` and the covariance `sigma`."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Real images that are not in the reference; `origin` names them."""

    images: Features
    origin: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of real features, their origin, and the features unless only statistics were published.

    `sha256` is that of the images, or of the file of statistics. `classes` are the labels if folders name
    them. `held_out` are further real images, whose distance to the reference is the unit of FDr.
    """

    statistics: Statistics
    images: Features | None
    sha256: str
    origin: ReferenceOrigin
    classes: tuple[str, ...] = ()
    held_out: HeldOut | None = None

    @classmethod
    def of(cls, images: Features, origin: str, classes: tuple[str, ...] = ()) -> Reference:
        """Make a reference of real images; `origin` names them in messages."""
        source: ReferenceOrigin = {"kind": "images", "of": origin, "count": len(images)}
        try:
            return cls(images.statistics, images, images.images_sha256, source, classes)
        except UserError as error:
            raise UserError(f"{origin}: {error}") from error


def holds_statistics(path: Path) -> bool:
    """Tell a file of published statistics by its ending and the names in it."""
    if path.suffix.lower() == ".pkl":
        return path.is_file()
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            return {"mu", "sigma"} <= set(content.files)
    except UNREADABLE_ARRAYS:
        return False


def read_statistics(path: Path, protocol: Protocol) -> Reference:
    """Read statistics of EDM, clean-fid or ADM (`.npz`), or of EDM2 (`.pkl`; nothing in it is executed).

    Statistics whose file or name says that another protocol made them are refused.
    """
    for mark in protocol.foreign:
        if mark in path.name:
            found = f"'{mark.strip('_')}' in its name is another protocol"
            raise UserError(f"--reference {path}: {found}; expected statistics made for {protocol.name}")
    publisher, arrays = _unpickle(path, protocol) if path.suffix.lower() == ".pkl" else _unzip(path)
    publisher = publisher or _publisher_by_name(path)
    if publisher is not None and protocol.name not in MADE_FOR[publisher]:
        fitting = ", ".join(MADE_FOR[publisher]) or "none of ours"
        found = f"statistics of {publisher} are made for {fitting}"
        raise UserError(f"--reference {path}: {found}; expected some made for {protocol.name}")
    try:
        statistics = _statistics(arrays)
    except UserError as error:
        raise UserError(f"--reference {path}: {error}") from error
    origin: ReferenceOrigin = {
        "kind": f"statistics ({publisher or 'of unknown origin'})",
        "of": path.name,
        "count": None,
        "known": publisher is not None,
    }
    return Reference(statistics, None, file_sha256(path), origin)


def _publisher_by_name(path: Path) -> str | None:
    for pattern, publisher in NAMED:
        if re.fullmatch(pattern, path.stem):
            return publisher
    return None


def _statistics(arrays: Arrays) -> Statistics:
    """Check the arrays, and remove an asymmetry of the covariance that single precision left."""
    mean, cov = _tensor(arrays, "mu"), _tensor(arrays, "sigma")
    if mean.dtype == torch.float32:
        # NumPy's mean of the features of clean-fid and ADM is in float32; seven digits of a mean are enough.
        mean = mean.double()
    is_square = cov.ndim == 2 and cov.shape[0] == cov.shape[1]
    if mean.is_floating_point() and cov.is_floating_point() and is_square:
        cov = _symmetric(cov)
    return Statistics(mean, cov, None)


def _tensor(arrays: Arrays, name: str) -> Tensor:
    """Convert an array of any byte order."""
    array = arrays[name]
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError as error:
        kind = arrays["mu"].dtype
        raise UserError(f"'mu' and 'sigma' are of the type {kind}; expected numbers") from error


def _symmetric(cov: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    if (cov - cov.T).abs().max() > ASYMMETRY * cov.abs().max():
        raise UserError("'sigma' is not symmetric; expected a covariance")
    return (cov + cov.T) / 2


def _unzip(path: Path) -> tuple[str | None, Arrays]:
    """Read a `.npz` file: the publisher, None if the file does not say, and the arrays."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            publisher = "ADM" if "mu_s" in content.files else None
            return publisher, {name: content[name] for name in ("mu", "sigma")}
    except UNREADABLE_ARRAYS as error:
        reason = str(error) or "it is larger than the memory"
        raise UserError(f"--reference {path}: cannot be read as statistics ({reason})") from error


def _unpickle(path: Path, protocol: Protocol) -> tuple[str, Arrays]:
    """Read a `.pkl` file of EDM2: the publisher and the arrays of the protocol's features."""
    from distill.storage.pickles.reader import read_pickle

    content = read_pickle(path)
    name = EDM2_NAMES.get(protocol.features)
    if not isinstance(content, dict) or not any(isinstance(value, dict) for value in content.values()):
        expected = "expected a mapping of distances to 'mu' and 'sigma', as EDM2 writes it"
        raise UserError(f"--reference {path}: {expected}")
    if not isinstance(content.get(name), dict):
        found = ", ".join(map(str, content)) or "nothing"
        expected = f"expected {name or 'no pickle'} for {protocol.name}"
        raise UserError(f"--reference {path}: holds {found}; {expected}")
    if not all(isinstance(content[name].get(key), np.ndarray) for key in ("mu", "sigma")):
        raise UserError(f"--reference {path}: '{name}' holds no arrays 'mu' and 'sigma'")
    return "EDM2", content[name]
