"""Save tensors as safetensors files, load them, check them against their networks, and hash them."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from distill.config.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

SEAL = "tensors_sha256"
"""Key of the hash in the metadata of a sealed file."""


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    sealed: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as safetensors with some metadata; a `sealed` file carries their hash.

    A full disk and the like raise OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    further = dict(metadata or {})
    if sealed:
        further[SEAL] = tensors_sha256(plain)
    try:
        save_file(plain, path, further or None)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors in a safetensors file."""
    from safetensors.torch import load_file

    with _reading_safetensors(path):
        return load_file(path)


def open_tensors(path: Path) -> Any:
    """Open a safetensors file, to read single tensors or rows of them as `safe_open` does."""
    from safetensors import safe_open

    with _reading_safetensors(path):
        return safe_open(path, framework="pt")


@contextmanager
def _reading_safetensors(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is broken or no safetensors file ({error})") from error


def load_sealed_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file that `save_tensors` sealed and check its hash.

    Older files, which have no seal, are read without the check.
    """
    from safetensors import safe_open

    tensors = load_tensors(path)
    with safe_open(path, framework="pt") as file:
        seal = (file.metadata() or {}).get(SEAL)
    if seal is not None and seal != tensors_sha256(tensors):
        raise UserError(f"{path}: is damaged: it holds other numbers than were written")
    return tensors


def read_weights(path: Path) -> Any:
    """Read a state dict that torch wrote, without running any code in it."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path}: holds no weights that torch wrote") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the weights in a safetensors file or in one of `torch.save`, by their names.

    In the latter they may stand under "state_dict", and have the names of a `DistributedDataParallel`'s
    module.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    content = read_weights(path)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not _is_state(tensors):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected weights by name")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _is_state(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Tell tensors by name from anything else that a file may hold."""
    from torch import Tensor

    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a network's weights from a safetensors file."""
    tensors = load_tensors(path)
    check_weights(network, tensors, path)
    network.load_state_dict(tensors)


def check_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Check that tensors have the names and shapes of a network's weights; `path` is named in messages."""
    check_shapes(network, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)


def check_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check names and shapes of tensors as `check_weights` does."""
    expected = network.state_dict()
    for name, tensor in expected.items():
        found = shapes.get(name, "nothing")
        if found != tuple(tensor.shape):
            raise UserError(
                f"{path}: weights of another architecture: {name} is {found}; expected {tuple(tensor.shape)}"
            )
    for name in shapes:
        if name not in expected:
            raise UserError(
                f"{path}: weights of another architecture: it has {name}, which the network has not"
            )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors on the CPU with their names, types and shapes, in the order of their names."""
    return _sha256(sorted(tensors.items()))


def weights_sha256(network: nn.Module) -> str:
    """Hash a network's weights and buffers with their names, types and shapes, in the network's order."""
    return _sha256(network.state_dict().items())


def _sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in _plain(tensors):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors; those that are made of others, as quantised ones, are yielded as these."""
    for name, tensor in tensors:
        flatten = getattr(tensor, "__tensor_flatten__", None)
        if flatten is not None and hasattr(tensor, "qdata"):
            parts, _ = flatten()
            yield from _plain((f"{name}.{part}", getattr(tensor, part)) for part in parts)
        else:
            yield name, tensor


def file_sha256(path: Path) -> str:
    """Hash a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
