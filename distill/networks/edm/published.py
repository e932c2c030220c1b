"""Reads the networks of EDM and EDM2 from the pickles in which NVIDIA published them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.config.errors import UserError, reading
from distill.networks.edm.arguments import POSITIONAL, PUBLISHED, describe_encoder, describe_network
from distill.networks.folder import build_network, load_denoiser, meta_denoiser
from distill.storage.pickles.machine import one_line
from distill.storage.pickles.reader import PickledObject, read_pickle
from distill.storage.tensors import check_weights

if TYPE_CHECKING:
    from distill.types import Denoiser

NETWORK_KEYS = ("ema", "net")
"""Keys of the network in a file: the average in a snapshot, the trained one in EDM's training states."""


def meta_network(path: Path, kind: str) -> Denoiser:
    """Build the network that `open_network` opens, on the meta device, without its weights.

    A file of `PUBLISHED` need not be there.
    """
    if path.is_dir():
        network = meta_denoiser(path)
    elif path.is_file() or path.name not in PUBLISHED:
        network = read_network(path).to("meta")
    else:
        with torch.device("meta"):
            network = build_network(describe_network("EDMPrecond", dict(PUBLISHED[path.name])), path)
    return _of_class(kind, network, path)


def open_network(path: Path, kind: str) -> Denoiser:
    """Open a network of this class from a published pickle or a converted folder, in evaluation mode."""
    network = load_denoiser(path).eval() if path.is_dir() else read_network(path)
    return _of_class(kind, network, path)


def _of_class(kind: str, network: Denoiser, path: Path) -> Denoiser:
    """Return a network if it is of this class, and refuse it otherwise."""
    found = type(network).__name__
    if found != kind:
        raise UserError(f"{path}: holds {found}; expected {kind}")
    return network


def read_network(path: Path) -> Denoiser:
    """Open the network in a published pickle or a file of `torch.save`, in float32 and evaluation mode.

    It is the one under "ema" or, in a training state of EDM, the one in training, under "net".
    """
    data = read_pickle(path)
    found = find_network(data, path)
    try:
        tensors = weights(found)
        arguments = arguments_of(found)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: '{one_line(found.class_name)}' under 'ema' is no network with its arguments"
        ) from error
    check_memory(tensors, path)
    with reading(path):
        description = describe_network(found.class_name, arguments)
        if "autoencoder" in description and isinstance(data.get("encoder"), PickledObject):
            description["autoencoder"] = describe_encoder(data["encoder"])
    # The file claims these sizes. On the meta device they cost no memory until the weights confirm them.
    with torch.device("meta"):
        network = build_network(description, path)
    check_weights(network, tensors, path)
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network.eval()


def find_network(data: Any, path: Path) -> PickledObject:
    """Return the network in a file's data."""
    entries = data if isinstance(data, dict) else {}
    for key in NETWORK_KEYS:
        if isinstance(entries.get(key), PickledObject):
            return entries[key]
    weight_keys = [key for key, value in entries.items() if _are_weights(value)]
    if weight_keys or _are_weights(entries):
        where = f" under '{one_line(str(weight_keys[0]))}'" if weight_keys else ""
        raise UserError(
            f"{path}: holds weights alone{where}, without the network's class and sizes; "
            "expected a snapshot with a network under 'ema'"
        )
    raise UserError(f"{path}: holds no network under 'ema'")


def _are_weights(value: Any) -> bool:
    """Tell whether a value is a state dict: tensors by their names."""
    return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def arguments_of(network: PickledObject) -> dict[str, Any]:
    """Return the arguments that a network was built with, by name."""
    positional = network.state["_init_args"]
    if len(positional) > len(POSITIONAL):
        raise TypeError("too many arguments without names")
    return dict(zip(POSITIONAL, positional, strict=False)) | network.state["_init_kwargs"]


def weights(module: PickledObject) -> dict[str, Tensor]:
    """Return parameters and buffers by the names that `state_dict` gives them."""
    tensors: dict[str, Tensor] = {}
    waiting = [("", module)]
    seen: set[int] = set()
    while waiting:
        prefix, current = waiting.pop()
        if id(current) in seen:
            raise TypeError("a module stands in two places")
        seen.add(id(current))
        for name, value in (current.state["_parameters"] | current.state["_buffers"]).items():
            if value is not None:
                tensors[f"{prefix}{name}"] = value
        for name, child in current.state["_modules"].items():
            if child is not None:
                waiting.append((f"{prefix}{name}.", child))
    if not all(isinstance(value, Tensor) and name.isprintable() for name, value in tensors.items()):
        raise TypeError("a weight has no name or is no tensor")
    return tensors


def check_memory(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that overlap in the file: as copies they would take more memory than it has."""
    stored = {}
    for tensor in tensors.values():
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > sum(stored.values()):
        raise UserError(f"{path}: has weights that share their numbers, which no network has")
