"""Published weights: where they are, how they are opened, and how those of other code become those of a network here, by their names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.storage.tensors import read_weights

PROVENANCE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Settings of a configuration of transformers that decide nothing of a network in float32."""
Network = TypeVar("Network", bound=nn.Module)


def first_line(error: Exception) -> str:
    """An error of a library as part of a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def find_file(source: str, name: str, flag: str) -> Path:
    """A published file: `source` itself, or the file `name` of a folder, of an https address (downloaded once) or of a repository on the hub.

    Raises UserError, naming the flag, where it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    path = Path(source)
    if path.is_file() or path.is_dir():
        found = path / name if path.is_dir() else path
        if not found.is_file():
            raise UserError(f"{flag}: {source} holds no {name}")
        return found
    try:
        if source.startswith("https://"):
            return _downloaded(f"{source}/{quote(name)}", name)
        return Path(hf_hub_download(source, name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"{flag}: {name} of {source} cannot be had ({first_line(error)}); expected a file, a folder or a name on the hub"
        ) from error


def _downloaded(url: str, name: str) -> Path:
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target))  # takes its name when it is whole
    return target


def open_pretrained(kind: Any, source: str, flag: str, **settings: Any) -> Any:
    """`kind.from_pretrained` of transformers, by folder or hub name. Raises UserError, naming the flag, where it cannot be opened."""
    try:
        return kind.from_pretrained(source, **settings)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"{flag}: {source} cannot be opened ({first_line(error)})") from error


def read_pretrained(kind: Any, source: str, flag: str) -> Any:
    """A network of transformers with all of its weights, in float32. Raises UserError, naming the flag and the first weight that it lacks.

    transformers itself makes weights that are missing, or of another shape, up.
    """
    settings = {"torch_dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    network, report = open_pretrained(kind, source, flag, **settings)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{flag}: {source} holds weights of another architecture: it has no {missing[0]}")
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise UserError(
            f"{flag}: {source} holds weights of another architecture: {name} is {tuple(found)}; expected {tuple(expected)}"
        )
    return network


def describe_config(config: Any) -> dict[str, Any]:
    """A configuration of transformers as plain data, without what says where it came from or which version wrote it."""
    return {
        name: value
        for name, value in json.loads(config.to_json_string(use_diff=False)).items()
        if name not in PROVENANCE
    }


@dataclasses.dataclass(frozen=True)
class PublishedWeight:
    """Where a weight stands in a published file: under which name, as which third of its rows, and whether transposed."""

    name: str
    third: int | None = None
    transposed: bool = False

    def of(self, published: Tensor) -> Tensor:
        """The weight, from the published one."""
        part = published if self.third is None else published.tensor_split(3)[self.third]
        return part.T if self.transposed else part

    def published_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the published one, from the weight's."""
        whole = tuple(reversed(shape)) if self.transposed else tuple(shape)
        return whole if self.third is None else (3 * whole[0], *whole[1:])


def meta(build: Callable[[], Network]) -> Network:
    """A network whose weights are on the meta device and whose other buffers are there: what `load_renamed` fills."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # random weights of a billion parameters would take a minute
        return build()


def load_renamed(
    network: Network,
    tensors: dict[str, Tensor],
    origin: Callable[[str], PublishedWeight],
    source: Path | str,
    unused: Collection[str] = (),
) -> Network:
    """Give a network the published weights, in float32: `origin` of each of its names says where they stand. Those named `unused` may be there.

    Raises UserError, naming the source and the first published name that differs, where they are another network's.
    """
    expected = network.state_dict()
    origins = {name: origin(name) for name in expected}
    for name, weight in expected.items():
        published, shape = origins[name].name, origins[name].published_shape(weight.shape)
        found = tuple(tensors[published].shape) if published in tensors else "nothing"
        if found != shape:
            raise UserError(
                f"{source}: weights of another architecture: {published} is {found}; expected {shape}"
            )
    known = {origin.name for origin in origins.values()} | set(unused)
    for published in tensors:
        if published not in known:
            raise UserError(
                f"{source}: weights of another architecture: it has {published}, which the network has not"
            )
    network.load_state_dict(
        {name: origin.of(tensors[origin.name]).float().contiguous() for name, origin in origins.items()},
        assign=True,
    )
    return network


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a file of torch's, by their names, also where they stand under "state_dict" or were a `DistributedDataParallel`'s.

    Raises UserError where the file holds something else.
    """
    content = read_weights(path)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(tensor, Tensor) for tensor in tensors.values())
    ):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected weights by name")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
