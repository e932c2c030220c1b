"""Choices on the command line for one protocol among several, such as `clip=models/clip`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from distill.config.errors import UserError
from distill.eval.features import Extractor, feature_names, load_extractor
from distill.eval.protocols import Protocol, protocol_names


def split_choices(texts: Sequence[str], flag: str, known: Collection[str]) -> dict[str | None, str]:
    """Read `VALUE` or `NAME=VALUE`, each at most once; the value without a name has the key None.

    Only a name among `known` counts as one, since a path may hold an equals sign.
    """
    chosen: dict[str | None, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        key = name if separator and name in known else None
        if not (value if key else text):
            raise UserError(f"{flag} {text}: is empty; expected {key or 'NAME'}=VALUE, or a value for all")
        if key in chosen:
            whose = f"for {key} " if key else ""
            raise UserError(f"{flag} {text}: is given twice {whose}(also {chosen[key]}); expected it once")
        chosen[key] = value if key else text
    return chosen


def choose_references(texts: Sequence[str], protocols: Sequence[Protocol]) -> list[str | None]:
    """Return the reference of each protocol: its own, or the common one, or None for the run's data."""
    chosen = split_choices(texts, "--reference", protocol_names())
    names = [protocol.name for protocol in protocols]
    _refuse_unused(chosen, names, "--reference", "protocols")
    return [chosen.get(name, chosen.get(None)) for name in names]


def load_extractors(
    protocols: Sequence[Protocol], weights: Sequence[str], device: torch.device
) -> list[Extractor]:
    """Open the feature network of each protocol, once for those that share one."""
    chosen = split_choices(weights, "--weights", feature_names())
    names = [protocol.features for protocol in protocols]
    _refuse_unused(chosen, names, "--weights", "features")
    if None in chosen and len(set(names)) > 1:
        found = f"--weights {chosen[None]}: the protocols have several networks"
        raise UserError(f"{found}; expected FEATURES=PATH with one of {', '.join(dict.fromkeys(names))}")
    loaded: dict[str, Extractor] = {}
    for name in dict.fromkeys(names):
        loaded[name] = load_extractor(name, chosen.get(name, chosen.get(None))).to(device)
    return [loaded[name] for name in names]


def _refuse_unused(chosen: dict[str | None, str], names: Sequence[str], flag: str, kind: str) -> None:
    for key, value in chosen.items():
        if key is not None and key not in names:
            expected = f"expected one of the {kind} measured, {', '.join(dict.fromkeys(names))}"
            raise UserError(f"{flag} {key}={value}: '{key}' is not measured; {expected}")
