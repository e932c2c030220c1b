"""The laboratory's teacher: a Gaussian mixture, whose scores and densities are exact at every noise level."""

from __future__ import annotations

from collections.abc import Callable
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
    """Its mean; its length is the dimension."""
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Standard deviation: one for all dimensions, or one each."""
    covariance: tuple[tuple[float, ...], ...] | None = None
    """Full covariance, instead of `std`."""
    weight: float = Field(1.0, gt=0)
    """Its share, relative to the others'."""
    label: int | None = Field(None, ge=0)
    """Class that it belongs to, if any component has one."""


class Settings(TeacherSettings):
    """A Gaussian mixture of any dimension."""

    name: Literal["gaussian_mixture"] = "gaussian_mixture"
    components: tuple[Component, ...] = Field(min_length=1)
    """Its Gaussians."""
    schedule: Literal["edm", "ddpm", "flow"] = "edm"
    """Noise schedule: variance-exploding, variance-preserving, or rectified flow."""

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        dimension = len(self.components[0].mean)
        for number, component in enumerate(self.components):
            place = f"components.{number}"
            if len(component.mean) != dimension:
                raise ValueError(
                    f"{place}.mean: has {len(component.mean)} elements; expected {dimension} as the first"
                )
            if (component.std is None) == (component.covariance is None):
                raise ValueError(f"{place}: expected std or covariance, one of them")
            if isinstance(component.std, tuple) and len(component.std) != dimension:
                raise ValueError(f"{place}.std: has {len(component.std)} elements; expected 1 or {dimension}")
            if component.covariance is not None:
                _check_covariance(component.covariance, dimension, place)
            if (component.label is None) != (self.components[0].label is None):
                raise ValueError(f"{place}.label: expected a label for every component or for none")
        return self

    def load(self) -> GaussianMixture:
        """Build the mixture, in float32 on the CPU."""
        import torch

        from distill.diffusion.schedules import DDPM, EDM, Flow
        from distill.networks.exact.gaussian_mixture import GaussianMixture

        # In the eigenvectors of its covariance, each component stays diagonal under any noise.
        variances, axes = torch.linalg.eigh(
            torch.tensor([_covariance(component) for component in self.components], dtype=torch.float64)
        )
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


def _covariance(component: Component) -> list[list[float]]:
    if component.covariance is not None:
        return [list(row) for row in component.covariance]
    dimension = len(component.mean)
    stds = component.std if isinstance(component.std, tuple) else (component.std or 0.0,) * dimension
    return [[std**2 * (row == column) for column in range(dimension)] for row, std in enumerate(stds)]


def _check_covariance(covariance: tuple[tuple[float, ...], ...], dimension: int, place: str) -> None:
    import numpy as np

    if any(len(row) != dimension for row in covariance) or len(covariance) != dimension:
        raise ValueError(f"{place}.covariance: expected {dimension} rows of {dimension}")
    matrix = np.array(covariance)
    if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] <= 0:
        raise ValueError(f"{place}.covariance: expected symmetric and positive definite")
