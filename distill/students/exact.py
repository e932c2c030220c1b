"""An exact fake score without parameters, for experiments with a Gaussian-mixture teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.students import FakeNetworkSettings

if TYPE_CHECKING:
    from distill.networks.exact.marginal import ExactFakeScore
    from distill.types import Denoiser, Generator


class FakeScore(FakeNetworkSettings):
    """The exact score of the student's noised distribution, which nothing has to learn.

    It is in closed form for an affine student and for scenes seen from a ring of cameras, and by quadrature
    in at most 2 dimensions for others.
    """

    name: Literal["exact"] = "exact"
    points: int = Field(64, ge=8)
    """Quadrature nodes in each dimension of the student's noise. More are more accurate, and slower: the cost
    grows with points^dimension. Not used for an affine student."""

    def build(self, teacher: Denoiser, generator: Generator) -> ExactFakeScore:
        """Make the exact score of the student, for a teacher that is a Gaussian mixture."""
        from distill.networks.exact.gaussian_mixture import GaussianMixture
        from distill.networks.exact.marginal import ExactFakeScore, marginal

        if not isinstance(teacher, GaussianMixture):
            raise UserError(
                "fake.network: exact needs a teacher that is known exactly; "
                "expected gaussian_mixture or known_scenes"
            )
        try:
            marginal(generator, teacher.schedule, self.points)
        except ValueError as error:
            raise UserError(f"fake.network: {error}") from error
        return ExactFakeScore(teacher, generator, self.points)
