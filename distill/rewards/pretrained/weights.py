"""Published weights: finding them, opening them, and renaming them for a network here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import torch
from torch import Tensor, nn

from distill.config.errors import UserError, first_line
from distill.networks.quiet_libraries import quiet_transformers

PROVENANCE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of a transformers configuration that do not change a network in float32."""
Network = TypeVar("Network", bound=nn.Module)


def find_file(source: str, name: str, flag: str) -> Path:
    """Find a published file on disk, or download it once.

    `source` is the file itself, or what holds the file `name`: a folder, an https address or a repository on
    the hub. `flag` is the setting in messages.
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
            return _download(f"{source}/{quote(name)}", name)
        return Path(hf_hub_download(source, name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"{flag}: {name} of {source} cannot be had ({first_line(error)}); "
            "expected a file, a folder or a name on the hub"
        ) from error


def _download(url: str, name: str) -> Path:
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target))  # the file has this name only when it is complete
    return target


def open_pretrained(kind: Any, source: str, flag: str, **settings: Any) -> Any:
    """Call `from_pretrained` of a transformers class. `flag` is the setting in messages."""
    try:
        with quiet_transformers():
            return kind.from_pretrained(source, **settings)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"{flag}: {source} cannot be opened ({first_line(error)})") from error


def read_pretrained(kind: Any, source: str, flag: str, dtype: torch.dtype = torch.float32) -> Any:
    """Open a transformers network in `dtype`, and refuse missing weights and weights of other shapes.

    transformers itself would give such weights random values. `flag` is the setting in messages.
    """
    settings = {"torch_dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    network, report = open_pretrained(kind, source, flag, **settings)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{flag}: {source} holds weights of another architecture: it has no {missing[0]}")
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise UserError(
            f"{flag}: {source} holds weights of another architecture: "
            f"{name} is {tuple(found)}; expected {tuple(expected)}"
        )
    return network


def describe_config(config: Any) -> dict[str, Any]:
    """Return a transformers configuration as plain data, without its path and the version that wrote it."""
    return _without_provenance(json.loads(config.to_json_string(use_diff=False)))


def _without_provenance(entries: dict[str, Any]) -> dict[str, Any]:
    """Leave out what does not change a network, also in the configurations of its parts."""
    return {
        name: _without_provenance(value) if isinstance(value, dict) else value
        for name, value in entries.items()
        if name not in PROVENANCE
    }


@dataclasses.dataclass(frozen=True)
class PublishedWeight:
    """The place of a weight in a published file: a tensor, or a third of its rows, perhaps transposed."""

    name: str
    third: int | None = None
    transposed: bool = False

    def convert(self, published: Tensor) -> Tensor:
        """Return the weight from the published tensor."""
        part = published if self.third is None else published.tensor_split(3)[self.third]
        return part.T if self.transposed else part

    def published_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape of the published tensor from that of the weight."""
        whole = tuple(reversed(shape)) if self.transposed else tuple(shape)
        return whole if self.third is None else (3 * whole[0], *whole[1:])


def meta(build: Callable[[], Network]) -> Network:
    """Build a network with its parameters, but not its buffers, on the meta device, for `load_renamed`."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # random weights of a billion parameters would take a minute
        return build()


def load_renamed(
    network: Network,
    tensors: dict[str, Tensor],
    find: Callable[[str], PublishedWeight],
    source: Path | str,
    unused: Collection[str] = (),
    dtype: torch.dtype | None = torch.float32,
) -> Network:
    """Load published weights into a network, in `dtype`, and refuse those of another architecture.

    `find` gives the place of each of the network's weights among `tensors`. Tensors named `unused` may be
    there too; any other is refused. `source` names the file in messages. With `dtype` None each weight keeps
    its published type.
    """
    weights = network.state_dict()
    places = {name: find(name) for name in weights}
    for name, place in places.items():
        expected = place.published_shape(weights[name].shape)
        found = tuple(tensors[place.name].shape) if place.name in tensors else "nothing"
        if found != expected:
            raise UserError(
                f"{source}: weights of another architecture: {place.name} is {found}; expected {expected}"
            )
    known = {place.name for place in places.values()} | set(unused)
    for published in tensors:
        if published not in known:
            raise UserError(
                f"{source}: weights of another architecture: it has {published}, which the network has not"
            )
    state = {
        name: place.convert(tensors[place.name]).to(dtype=dtype).contiguous()
        for name, place in places.items()
    }
    network.load_state_dict(state, assign=True)
    return network
