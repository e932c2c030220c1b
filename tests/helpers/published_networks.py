"""Networks as the published code pickles them: with source, which here would end the process."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distill.networks.edm.published import read_network
from distill.storage.pickles.reader import PickledObject

ORACLES = Path(__file__).parents[1] / "oracles"
EDM, EDM2 = ORACLES / "edm_tiny.pkl", ORACLES / "edm2_tiny.pkl"
"""Pickles that the published classes wrote, with the weights of `seeded_weights`."""
SOURCE = 'raise SystemExit("the source in this file was executed")'


class Persistent:
    """An object of a class with `persistent_class` of the published `torch_utils.persistence`."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@contextmanager
def published_names() -> Iterator[None]:
    """Define the function that such a pickle names, inside the context."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise SystemExit("the file was opened by Python's unpickler")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules[module.__name__]


def as_published(value: Any) -> Any:
    """Turn objects that our reader returned into objects that pickle as the published ones do."""
    if isinstance(value, dict):
        return {name: as_published(one) for name, one in value.items()}
    if not isinstance(value, PickledObject):
        return value
    state = as_published(value.state)
    if value.class_name != "ModuleDict":
        return Persistent(value.class_name, state)
    modules = torch.nn.ModuleDict.__new__(torch.nn.ModuleDict)
    modules.__dict__ = state
    return modules


def renamed(network: PickledObject, classes: dict[str, str], **arguments: Any) -> PickledObject:
    """Copy a network with other class names and further arguments."""
    network = copy.deepcopy(network)
    waiting = [network]
    while waiting:
        current = waiting.pop()
        current.class_name = classes.get(current.class_name, current.class_name)
        waiting += [child for child in current.state["_modules"].values() if child is not None]
    network.state["_init_kwargs"].update(arguments)
    if "model_type" in network.state["_init_kwargs"]:
        backbone = network.state["_init_kwargs"]["model_type"]
        network.state["_init_kwargs"]["model_type"] = classes.get(backbone, backbone)
    return network


def dump(protocol: int) -> Callable[[Any, Path], None]:
    """Return a function that pickles a value into a file."""
    return lambda value, path: path.write_bytes(pickle.dumps(value, protocol))


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    **{f"protocol {protocol}": dump(protocol) for protocol in (2, 3, 4, 5)},
    "torch.save": torch.save,
    "torch.save before 1.6": lambda value, path: torch.save(
        value, path, _use_new_zipfile_serialization=False
    ),
}


def written(data: dict[str, Any], path: Path, writer: str = "protocol 4") -> Path:
    """Write data that our reader returned to a file, as the published code would."""
    with published_names():
        WRITERS[writer]({name: as_published(value) for name, value in data.items()}, path)
    assert SOURCE.encode() in path.read_bytes()
    return path


def assert_same_network(path: Path, expected: Path) -> None:
    """Check that two files hold the same network with the same weights."""
    found, known = read_network(path), read_network(expected)
    assert found.describe() == known.describe()
    for name, value in known.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
