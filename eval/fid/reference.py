"""What generated images are compared with: real images, or statistics of them that others published."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.archives import UNREADABLE_ARRAYS
from distill.storage.tensors import file_sha256
from eval.frechet import Statistics
from eval.images.feature_store import Features
from eval.protocols import Protocol

ASYMMETRY = 1e-5
"""What single precision may leave of a symmetric matrix, beside its greatest element."""
EDM2_NAMES = {"inception": "fid", "dinov2": "fd_dinov2"}
"""Our features and what a statistics file of EDM2 calls their distance."""
MADE_FOR = {
    "EDM2": ("edm-50k", "fd-dinov2"),
    "EDM": ("edm-50k",),
    "ADM": (),
    "clean-fid, clean": ("clean",),
    "clean-fid, legacy_tensorflow": ("clean-legacy", "edm-50k", "coco30k"),
    "clean-fid, legacy_pytorch": (),
}
"""Whose statistics are made with which protocol's resizing and network. ADM's network is TensorFlow's of 2015 and its resizing its own."""
NAMED = (
    (r".*_(legacy_tensorflow)_.*|cifar10_legacy_tensorflow.*", "clean-fid, legacy_tensorflow"),
    (r".*_(legacy_pytorch)_.*", "clean-fid, legacy_pytorch"),
    (r".*_clean_.*", "clean-fid, clean"),
    (r"VIRTUAL_.*", "ADM"),
    (r"(cifar10-32x32|ffhq-64x64|afhqv2-64x64|imagenet-64x64)", "EDM"),
    (r"img(512|64)(-.*)?", "EDM2"),
)
"""Names under which statistics were published, without their endings, and by whom."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of real features, the features themselves unless only statistics were published, and where they are from.

    `sha256` is that of the images, or of the file of statistics.
    """

    statistics: Statistics
    images: Features | None
    sha256: str
    origin: dict[str, Any]

    @classmethod
    def of(cls, images: Features, origin: str) -> Reference:
        source = {"kind": "images", "of": origin, "count": len(images)}
        try:
            return cls(Statistics.of(images.features), images, images.images_sha256, source)
        except UserError as error:
            raise UserError(f"{origin}: {error}") from error

    @property
    def features(self) -> Tensor | None:
        return None if self.images is None else self.images.features


def holds_statistics(path: Path) -> bool:
    """Whether a file is one of published statistics, by its ending and its names."""
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
    """Statistics of EDM, clean-fid or ADM (`.npz`), or of EDM2 (`.pkl`, of which nothing is executed).

    Raises UserError where the file cannot be read, or its name says that it was made by another protocol.
    """
    for mark in protocol.foreign:
        if mark in path.name:
            raise UserError(
                f"--reference {path}: '{mark.strip('_')}' in its name is another protocol; expected statistics made for {protocol.name}"
            )
    kind, arrays = _pickled(path, protocol) if path.suffix.lower() == ".pkl" else _zipped(path)
    kind = kind or next((made for name, made in NAMED if re.fullmatch(name, path.stem)), None)
    if kind is not None and protocol.name not in MADE_FOR[kind]:
        fitting = ", ".join(MADE_FOR[kind]) or "none of ours"
        raise UserError(
            f"--reference {path}: statistics of {kind} are made for {fitting}; expected some made for {protocol.name}"
        )
    try:
        mean, cov = (
            torch.from_numpy(np.array(arrays[name], dtype=arrays[name].dtype.newbyteorder("=")))
            for name in ("mu", "sigma")
        )
    except TypeError as error:
        raise UserError(
            f"--reference {path}: 'mu' and 'sigma' are of the type {arrays['mu'].dtype}; expected numbers"
        ) from error
    if (
        mean.dtype == torch.float32
    ):  # as NumPy's mean of the features of clean-fid and ADM is; seven digits of a mean are enough
        mean = mean.double()
    if (
        mean.is_floating_point()
        and cov.is_floating_point()
        and cov.ndim == 2
        and cov.shape[0] == cov.shape[1]
    ):
        if (cov - cov.T).abs().max() > ASYMMETRY * cov.abs().max():
            raise UserError(f"--reference {path}: 'sigma' is not symmetric; expected a covariance")
        cov = (cov + cov.T) / 2
    try:
        statistics = Statistics(mean, cov, None)
    except UserError as error:
        raise UserError(f"--reference {path}: {error}") from error
    origin = {
        "kind": f"statistics ({kind or 'of unknown origin'})",
        "of": path.name,
        "count": None,
        "known": kind is not None,
    }
    return Reference(statistics, None, file_sha256(path), origin)


def _zipped(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Who made the statistics, None where the file does not say, and the arrays."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            kind = "ADM" if "mu_s" in content.files else None
            return kind, {name: content[name] for name in ("mu", "sigma")}
    except UNREADABLE_ARRAYS as error:
        raise UserError(
            f"--reference {path}: cannot be read as statistics ({str(error) or 'it is larger than the memory'})"
        ) from error


def _pickled(path: Path, protocol: Protocol) -> tuple[str, dict[str, Any]]:
    from distill.storage.pickles.reader import read_pickle

    content, name = read_pickle(path), EDM2_NAMES.get(protocol.features)
    if not isinstance(content, dict) or not any(isinstance(value, dict) for value in content.values()):
        raise UserError(
            f"--reference {path}: expected a mapping of distances to 'mu' and 'sigma', as EDM2 writes it"
        )
    if not isinstance(content.get(name), dict):
        raise UserError(
            f"--reference {path}: holds {', '.join(map(str, content)) or 'nothing'}; expected {name or 'no pickle'} for {protocol.name}"
        )
    if not all(isinstance(content[name].get(key), np.ndarray) for key in ("mu", "sigma")):
        raise UserError(f"--reference {path}: '{name}' holds no arrays 'mu' and 'sigma'")
    return "EDM2", content[name]
