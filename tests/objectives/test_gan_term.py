"""The GAN term: its loss of a sample's logits, and its weighting by the distance from the teacher."""

import math

import torch
from torch import Tensor

from distill.objectives.term import TermInputs
from distill.objectives.terms.gan import Gan
from distill.types import Condition, Prediction, Scores


def inputs_of(x0: Tensor, teacher: Tensor, logits: Tensor) -> TermInputs:
    """Return a term's inputs for samples without noise."""
    one = torch.ones(len(x0), 1, 1, 1)
    scores = Scores(x0, x0, one, one, teacher, teacher, torch.zeros(len(x0)))
    return TermInputs(scores, Condition(), torch.nn.Identity(), Prediction(teacher), logits)


def test_the_gan_term_weighted_as_dmd_is_divided_by_each_sample_s_distance_from_the_teacher() -> None:
    x0 = torch.zeros(2, 1, 2, 2)
    teacher = torch.stack([torch.full((1, 2, 2), 0.5), torch.tensor([[[0.1, -0.3], [0.3, -0.1]]])])
    inputs = inputs_of(x0, teacher, torch.tensor([0.0, math.log(3)]))
    plain, weighted = Gan("none")(inputs), Gan("dmd")(inputs)
    torch.testing.assert_close(plain.loss, torch.tensor([math.log(2), math.log(4 / 3)]))
    torch.testing.assert_close(weighted.loss, torch.tensor([math.log(2) / 0.5, math.log(4 / 3) / 0.2]))
    torch.testing.assert_close(weighted.metrics["factor"], torch.tensor([2.0, 5.0]))


def test_a_logit_for_each_position_counts_by_the_mean_loss() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    image = torch.zeros(1, 1, 1, 2)
    loss = Gan()(inputs_of(image, image, logits)).loss
    torch.testing.assert_close(loss, torch.tensor([(math.log(2) + math.log(4 / 3)) / 2]))
