"""Tests see wrong shapes and types of what they call."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch

from tests.helpers import typechecker

SOURCE = """
from __future__ import annotations
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING
from jaxtyping import Float
from torch import Tensor
if TYPE_CHECKING:
    from fractions import Fraction

def rows(matrix: Float[Tensor, "a b"], weights: Float[Tensor, " a"]) -> Float[Tensor, " b"]:
    return matrix.sum(0) if len(weights) < 3 else weights

def each(vector: Float[Tensor, " a"]) -> Iterator[Float[Tensor, " a"]]:
    yield vector

def unknown(value: Fraction) -> object:
    return value

def of_later(value: Later) -> None:
    pass

class Later:
    pass

@dataclasses.dataclass(frozen=True)
class Pair:
    x: Float[Tensor, " a"]
    y: Float[Tensor, " a"]
    scale: float = 1.0

    @property
    def name(self) -> str:
        return self.scale
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "checked_example.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "checked_example", raising=False)
    typechecker.install("checked_example")
    return importlib.import_module("checked_example")


def test_what_fits_passes(module: ModuleType) -> None:
    assert module.rows(torch.ones(2, 5), torch.ones(2)).shape == (5,)
    assert module.rows(torch.ones(3, 3), weights=torch.ones(3)).shape == (3,)
    with typechecker.scope("context"):  # a reader's
        assert isinstance(torch.ones(3), jaxtyping.Float[torch.Tensor, " a"])
        assert len(list(module.each(torch.ones(2)))) == 1
    assert module.unknown("no fraction") == "no fraction"  # known to a type checker alone
    assert module.Pair(torch.ones(2), torch.ones(2), scale=2).scale == 2


def test_wrong_arguments_and_results_are_seen(module: ModuleType) -> None:
    pair = module.Pair(torch.ones(2), torch.ones(2))
    for call in (
        lambda: module.rows(torch.ones(2), torch.ones(2)),  # rank
        lambda: module.rows(torch.ones(2, 5), torch.ones(3)),  # an axis of two lengths
        lambda: module.rows(torch.ones(2, 5).int(), torch.ones(2)),  # type of the elements
        lambda: module.rows(torch.ones(3, 4), torch.ones(3)),  # result
        lambda: module.of_later(3),
        lambda: module.Pair(torch.ones(2), torch.ones(3)),
        lambda: module.Pair(torch.ones(2), torch.ones(2), scale="1"),
        lambda: pair.name,
    ):
        with pytest.raises(TypeError, match="violates type hint"):
            call()


def test_without_checks_nothing_is_seen(module: ModuleType, unchecked: None) -> None:
    assert jaxtyping.config.jaxtyping_disable
    assert module.Pair(torch.ones(2), torch.ones(3)).name == 1.0
