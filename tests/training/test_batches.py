"""All random numbers of a step depend on the seed and the step's index alone, on whichever process."""

import dataclasses
from itertools import islice
from typing import Any

import torch

from distill.data.sources.digits import Settings as Digits
from distill.diffusion.random import seeded
from distill.training.batches import Batch, Batches, Purpose
from distill.types import Condition, Pairs

CPU = torch.device("cpu")


def batches(process: int = 0, processes: int = 1, data: bool = True, **changes: Any) -> Batches:
    """Return batches of the digits, or of labels alone."""
    settings = {"batch_size": 8, "seed": 3, **changes}
    return Batches(
        (1, 8, 8),
        10,
        Digits().load() if data else None,
        device=CPU,
        process=process,
        processes=processes,
        **settings,
    )


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Return a batch's fields that are tensors, and its labels."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {"label": batch.cond.label} | {
        name: value for name, value in values.items() if isinstance(value, torch.Tensor)
    }


def test_batches_started_late_are_those_of_an_uninterrupted_run() -> None:
    third = list(islice(batches().starting_at(0), 3))[2]
    again = next(batches().starting_at(2))
    assert len(tensors(third)) == 9
    for name, value in tensors(third).items():
        assert torch.equal(value, tensors(again)[name]), name


def test_two_processes_draw_the_halves_of_one_process_s_batch() -> None:
    whole = tensors(next(batches().starting_at(5)))
    halves = [tensors(next(batches(process, 2).starting_at(5))) for process in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), value), name


def test_batches_of_other_seeds_and_indices_differ() -> None:
    first = next(batches().starting_at(0))
    for other in (next(batches().starting_at(1)), next(batches(seed=4).starting_at(0))):
        assert not torch.equal(first.z, other.z)
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.crop_positions, other.crop_positions)
        assert first.real is not None
        assert other.real is not None
        assert not torch.equal(first.real, other.real)


def test_labels_are_those_of_the_real_images() -> None:
    data = Digits().load()
    batch = next(batches().starting_at(0))
    for image, label in zip(batch.real, batch.cond.label.tolist(), strict=True):
        found = (data.images == image).flatten(1).all(1).nonzero().flatten()
        assert label in data.labels[found].tolist()


def test_without_data_labels_are_uniform_and_there_are_no_real_images() -> None:
    batch = next(batches(data=False, batch_size=20_000).starting_at(0))
    assert batch.real is None
    shares = batch.cond.label.bincount(minlength=10) / 20_000
    assert (shares - 0.1).abs().max() < 0.01


def test_micro_batches_are_the_batch_in_order() -> None:
    batch = next(batches().starting_at(0))
    parts = batch.split(3)
    assert [len(part) for part in parts] == [3, 3, 2]
    for name, value in tensors(batch).items():
        assert torch.equal(torch.cat([tensors(part)[name] for part in parts]), value), name


class NumberPairs:
    """A `PairSource` whose pair i is (z, x) = (i, -i) under label i."""

    def __len__(self) -> int:
        return 5

    def pairs(self, rows: torch.Tensor) -> Pairs:
        return Pairs(rows[:, None].float(), Condition(rows), -rows[:, None].float())


def test_pairs_stay_together_however_a_batch_is_split() -> None:
    whole = next(batches(paired=NumberPairs(), batch_size=64).starting_at(5))
    halves = [
        next(batches(process, 2, paired=NumberPairs(), batch_size=64).starting_at(5)) for process in (0, 1)
    ]
    parts = whole.split(40)
    assert set(whole.pairs.z.flatten().tolist()) == {0, 1, 2, 3, 4}
    for split in ([whole], halves, parts):
        assert torch.equal(torch.cat([batch.pairs.z for batch in split]), whole.pairs.z)
        for batch in split:
            assert torch.equal(batch.pairs.x, -batch.pairs.z)
            assert torch.equal(batch.pairs.cond.label.float(), batch.pairs.z[:, 0])
    assert next(batches(data=False).starting_at(5)).pairs is None


def test_processes_agree_on_the_generator_s_number_of_steps_in_a_batch() -> None:
    """A batch takes 1 to 3 steps, drawn uniformly, and holds a noise for each."""
    steps = []
    for index in range(300):
        drawn = [
            next(batches(process, 2, data=False, evaluations=3, batch_size=2).starting_at(index))
            for process in (0, 1)
        ]
        assert drawn[0].z.shape == drawn[1].z.shape
        steps.append(drawn[0].z.shape[1])
        assert drawn[0].eps.shape == (1, 1, 8, 8)
    counts = torch.tensor(steps).bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 100).abs().max() < 25  # three standard deviations
    whole = next(batches(data=False, evaluations=3, batch_size=2).starting_at(299))
    assert torch.equal(whole.z[1:], drawn[1].z)


def test_own_noise_leaves_all_other_random_numbers_as_they_were() -> None:
    names = ("gan_noise", "discriminator_noise", "real_noise")
    settings = {"data": False, "batch_size": 6, "seed": 0}
    without = next(batches(**settings).starting_at(3))
    having = next(batches(**settings, own_noise=names).starting_at(3))
    for name, value in tensors(without).items():
        assert torch.equal(value, tensors(having)[name]), name
    assert without.gan_noise is None
    own = (having.gan_noise, having.discriminator_noise, having.real_noise)
    assert len({float(noise.u[0]) for noise in own}) == 3
    half = next(batches(1, 2, **settings, own_noise=names).starting_at(3))
    assert torch.equal(half.real_noise.eps, having.real_noise.eps[3:])
    assert torch.equal(having.split(4)[1].gan_noise.u, having.gan_noise.u[4:])


def test_noise_and_levels_have_their_distributions() -> None:
    batch = next(batches(data=False, batch_size=4000).starting_at(0))
    assert abs(batch.z.mean().item()) < 0.01
    assert abs(batch.eps.std().item() - 1) < 0.01
    assert abs(batch.u.mean().item() - 0.5) < 0.02
    assert 0 < batch.u.min() < batch.u.max() < 1
    correlation = (batch.z * batch.eps).mean().item()
    assert abs(correlation) < 0.01


def test_keys_give_unrelated_numbers() -> None:
    drawn = [torch.randn(1000, generator=seeded(*key)) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0)]]
    table = torch.corrcoef(torch.stack(drawn))
    assert (table - torch.eye(4)).abs().max() < 0.15
    assert torch.equal(drawn[0], torch.randn(1000, generator=seeded(0, 0)))


def test_the_streams_of_random_numbers_keep_their_numbers() -> None:
    """A run that continues, or is repeated by a later version, draws what it drew before."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "NOISE": 0,
        "DATA": 1,
        "DROPOUT": 2,
        "PAIRS": 3,
        "PROMPT_DROPOUT": 4,
        "GENERATOR_STEPS": 5,
        "CROPS": 6,
        "GAN_NOISE": 7,
        "DISCRIMINATOR_NOISE": 8,
        "REAL_NOISE": 9,
        "CAPTIONS": 10,
    }
