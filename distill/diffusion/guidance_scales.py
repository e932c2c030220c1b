"""The scales of classifier-free guidance, as settings."""

from __future__ import annotations

from distill.config.settings import Settings


class GuidanceScales(Settings):
    """Scales of classifier-free guidance: D(no condition) + scale (D(condition) - D(no condition)).

    A scale of 1 is no guidance. A larger one gives clearer and less diverse images, and costs a forward pass
    of twice the batch. SiD-LSG (Zhou et al. 2024) names the scales kappa. A scale of 0 is the prediction
    without the condition, and costs no more than one with it; a negative one leads away from the condition.
    Few-step SiD (Zhou et al. 2025) has a teacher of scale 1 and a fake score of scale 0 (Zero-CFG) or below
    (Anti-CFG).
    """

    teacher: float = 1.0
    """Guidance scale of the teacher: kappa_4 of SiD-LSG."""
    fake: float = 1.0
    """Guidance scale of the fake score in the generator's update: kappa_2 and kappa_3 of SiD-LSG."""
    fake_training: float = 1.0
    """Guidance scale of the fake score in its own updates: kappa_1 of SiD-LSG."""
