"""The laboratory's fake score: exact, with nothing to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.students import FakeNetworkSettings

if TYPE_CHECKING:
    from distill.networks.exact.marginal import ExactFakeScore
    from distill.types import Denoiser, Generator


class FakeScore(FakeNetworkSettings):
    """The score of the student's own noised distribution: in closed form for an affine student, else by quadrature in at most 2 dimensions."""

    name: Literal["exact"] = "exact"
    points: int = Field(64, ge=8)
    """Quadrature nodes in each dimension of the student's noise."""

    def build(self, teacher: Denoiser, generator: Generator) -> ExactFakeScore:
        """The exact score. Raises UserError where the teacher is no gaussian_mixture, or quadrature is out of reach."""
        from distill.networks.exact.gaussian_mixture import GaussianMixture
        from distill.networks.exact.marginal import ExactFakeScore, marginal

        if not isinstance(teacher, GaussianMixture):
            raise UserError(
                "fake.network: exact needs a teacher that is known exactly; expected gaussian_mixture"
            )
        try:
            marginal(generator, teacher.schedule, self.points)
        except ValueError as error:
            raise UserError(f"fake.network: {error}") from error
        return ExactFakeScore(teacher, generator, self.points)
