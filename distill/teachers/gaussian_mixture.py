"""A Gaussian mixture, whose score and density are known exactly at every noise level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from distill.config.settings import Settings as BaseSettings
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.networks.exact.gaussian_mixture import GaussianMixture
    from distill.types import NoiseSchedule


class Component(BaseSettings):
    """One Gaussian of the mixture."""

    mean: tuple[float, ...] = Field(min_length=1)
    """Mean of the component; its length is the dimension of the vectors."""
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Standard deviation: one number for all dimensions, or one for each."""
    covariance: tuple[tuple[float, ...], ...] | None = None
    """Full covariance matrix, given instead of `std`."""
    weight: float = Field(1.0, gt=0)
    """Share of the component relative to the other components; shares need not sum to 1."""
    label: int | None = Field(None, ge=0)
    """Class of the component, from 0. Either all components have one, or none has; every class up to the
    highest has a component."""


class Settings(TeacherSettings):
    """A Gaussian mixture in any dimension, whose score is exact: for experiments against closed forms."""

    name: Literal["gaussian_mixture"] = "gaussian_mixture"
    components: tuple[Component, ...] = Field(min_length=1)
    """Gaussians of the mixture."""
    schedule: Literal["edm", "ddpm", "flow"] = "edm"
    """Noise schedule: variance-exploding (edm), variance-preserving (ddpm), or rectified flow (flow)."""

    @model_validator(mode="after")
    def _check_components(self) -> Settings:
        for number, component in enumerate(self.components):
            _check_component(component, self.components[0], f"components.{number}")
        labels = {component.label for component in self.components} - {None}
        for label in range(len(labels)):
            if label not in labels:
                raise ValueError(
                    f"components: none has the label {label}; expected all from 0 to the highest"
                )
        return self

    def load(self) -> GaussianMixture:
        """Build the mixture, in float32 on the CPU."""
        import torch

        from distill.diffusion.schedules import DDPM, EDM, Flow
        from distill.networks.exact.gaussian_mixture import GaussianMixture

        # In the basis of its eigenvectors a covariance stays diagonal when isotropic noise is added.
        covariances = [_covariance(component) for component in self.components]
        variances, axes = torch.linalg.eigh(torch.tensor(covariances, dtype=torch.float64))
        schedules: dict[str, Callable[[], NoiseSchedule]] = {"edm": EDM, "ddpm": DDPM.linear, "flow": Flow}
        labels = [component.label for component in self.components if component.label is not None]
        return GaussianMixture(
            torch.tensor([component.weight for component in self.components]),
            torch.tensor([component.mean for component in self.components]),
            variances.float(),
            schedules[self.schedule](),
            axes.float(),
            torch.tensor(labels) if labels else None,
        )

    def load_without_weights(
        self, min_component_parameters: int, prompts: Path | None = None
    ) -> GaussianMixture:
        """Build the mixture as it is: it has no weights."""
        return self.load()


def _covariance(component: Component) -> list[list[float]]:
    """Return the covariance matrix of a component."""
    if component.covariance is not None:
        return [list(row) for row in component.covariance]
    assert component.std is not None
    stds = component.std if isinstance(component.std, tuple) else (component.std,) * len(component.mean)
    return [[std**2 if row == column else 0.0 for column in range(len(stds))] for row, std in enumerate(stds)]


def _check_component(component: Component, first: Component, key: str) -> None:
    """Raise ValueError, naming the `key`, unless the component is complete and fits the first one."""
    dimension = len(first.mean)
    if len(component.mean) != dimension:
        raise ValueError(f"{key}.mean: has {len(component.mean)} elements; expected {dimension} as the first")
    if (component.std is None) == (component.covariance is None):
        raise ValueError(f"{key}: expected std or covariance, one of them")
    if isinstance(component.std, tuple) and len(component.std) != dimension:
        raise ValueError(f"{key}.std: has {len(component.std)} elements; expected 1 or {dimension}")
    if component.covariance is not None:
        _check_covariance(component.covariance, dimension, key)
    if (component.label is None) != (first.label is None):
        raise ValueError(f"{key}.label: expected a label for every component or for none")


def _check_covariance(covariance: tuple[tuple[float, ...], ...], dimension: int, key: str) -> None:
    import numpy as np

    if any(len(row) != dimension for row in covariance) or len(covariance) != dimension:
        raise ValueError(f"{key}.covariance: expected {dimension} rows of {dimension}")
    matrix = np.array(covariance)
    if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] <= 0:
        raise ValueError(f"{key}.covariance: expected symmetric and positive definite")
