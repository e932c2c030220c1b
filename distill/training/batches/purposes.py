"""The independent streams of random numbers of a run."""

from __future__ import annotations

import enum


class Purpose(enum.IntEnum):
    """Independent streams of random numbers within a batch.

    The numbers are part of every run: they never change.
    """

    Z = 0
    """Noise of the generator's first step; its step k + 1 has the number 256 k."""
    LABEL = 1
    DATA = 2
    CAPTION = 3
    PAIR = 4
    PROMPT_DROPOUT = 5
    GENERATOR_STEPS = 6
    CROP = 7
    DROPOUT = 8
    LEVEL = 9
    NOISE = 10
    FAKE_LEVEL = 11
    FAKE_NOISE = 12
    REAL_NOISE = 13
    GAN_LEVEL = 14
    GAN_NOISE = 15
    DISCRIMINATOR_LEVEL = 16
    DISCRIMINATOR_NOISE = 17
    OWN_REAL_LEVEL = 18
    OWN_REAL_NOISE = 19
    IMPLICIT_REWARD_LEVEL = 20
    IMPLICIT_REWARD_NOISE = 21
    INPUT_STEP = 22


OWN_NOISE = {
    "gan_noise": (Purpose.GAN_LEVEL, Purpose.GAN_NOISE),
    "discriminator_noise": (Purpose.DISCRIMINATOR_LEVEL, Purpose.DISCRIMINATOR_NOISE),
    "implicit_reward_noise": (Purpose.IMPLICIT_REWARD_LEVEL, Purpose.IMPLICIT_REWARD_NOISE),
    "real_noise": (Purpose.OWN_REAL_LEVEL, Purpose.OWN_REAL_NOISE),
}
"""Levels and noise of the fields of a batch that are drawn only if a run asks for them."""


def noise_of_step(step: int) -> int:
    """Return the purpose of the noise of a generator's step, counted from 0."""
    return Purpose.Z + 256 * step
