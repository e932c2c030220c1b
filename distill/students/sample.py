"""The student's sample in place of a fake score: score distillation sampling (SDS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.students import FakeNetworkSettings

if TYPE_CHECKING:
    from distill.networks.exact.sample_score import SampleScore
    from distill.types import Denoiser, Generator


class FakeScore(FakeNetworkSettings):
    """No network: each sample of the student counts as its whole distribution, as in SDS (DreamFusion).

    It costs nothing, and seeks the modes of the teacher, or their mean at high noise levels, instead of its
    distribution. Usual for a scene, with a guidance scale of the teacher around 100.
    """

    name: Literal["sample"] = "sample"

    def build(self, teacher: Denoiser, generator: Generator) -> SampleScore:
        """Make the score for the teacher's images."""
        from distill.networks.exact.sample_score import SampleScore

        return SampleScore(teacher)
