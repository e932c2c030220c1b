"""All random numbers of a step depend on the seed and the step's index alone, on whichever process."""

import dataclasses
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from distill.config.errors import UserError
from distill.data.sources.digits import Settings as Digits
from distill.training.batches import Batch, Batches, Purpose
from distill.training.batches.reading import one_ahead
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


def test_steps_that_a_term_trains_alone_are_not_drawn() -> None:
    steps = [
        next(batches(data=False, evaluations=3, first_step=2, batch_size=2).starting_at(index)).z.shape[1]
        for index in range(100)
    ]
    assert set(steps) == {2, 3}
    assert abs(steps.count(2) - 50) < 15
    last = next(batches(data=False, evaluations=3, first_step=3, batch_size=2).starting_at(0))
    assert last.z.shape[1] == 3


def test_each_sample_draws_the_step_that_it_takes_from_its_real_image() -> None:
    """Steps are uniform, belong to the sample however processes share the batch, and need one noise each."""
    settings = {"evaluations": 3, "noises_inputs": True, "batch_size": 6}
    drawn = [next(batches(**settings).starting_at(index)) for index in range(100)]
    counts = torch.cat([batch.step for batch in drawn]).bincount()
    assert len(counts) == 3
    assert (counts - 200).abs().max() < 35  # three standard deviations
    z, _, inputs = drawn[0].generator_inputs
    assert z.shape == drawn[0].real.shape
    assert inputs.images is drawn[0].real
    half = next(batches(1, 2, **settings).starting_at(0))
    assert torch.equal(half.step, drawn[0].step[3:])
    assert torch.equal(drawn[0].split(4)[1].step, drawn[0].step[4:])
    simulated = next(batches(batch_size=6).starting_at(0))
    assert len(simulated.generator_inputs) == 2
    assert torch.equal(simulated.eps, drawn[0].eps)


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


def test_the_streams_of_random_numbers_keep_their_numbers() -> None:
    """A run that continues, or is repeated by a later version, draws what it drew before."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "Z": 0,
        "LABEL": 1,
        "DATA": 2,
        "CAPTION": 3,
        "PAIR": 4,
        "PROMPT_DROPOUT": 5,
        "GENERATOR_STEPS": 6,
        "CROP": 7,
        "DROPOUT": 8,
        "LEVEL": 9,
        "NOISE": 10,
        "FAKE_LEVEL": 11,
        "FAKE_NOISE": 12,
        "REAL_NOISE": 13,
        "GAN_LEVEL": 14,
        "GAN_NOISE": 15,
        "DISCRIMINATOR_LEVEL": 16,
        "DISCRIMINATOR_NOISE": 17,
        "OWN_REAL_LEVEL": 18,
        "OWN_REAL_NOISE": 19,
        "IMPLICIT_REWARD_LEVEL": 20,
        "IMPLICIT_REWARD_NOISE": 21,
        "INPUT_STEP": 22,
    }


def test_all_noises_of_a_batch_are_independent() -> None:
    batch = next(batches(batch_size=64, evaluations=2, own_noise=("gan_noise", "real_noise")).starting_at(1))
    assert batch.z.shape == (64, 2, 8, 8)
    noises = [batch.z[:, 0], batch.z[:, 1], batch.eps, batch.eps_fake, batch.eps_real]
    noises += [batch.gan_noise.eps, batch.real_noise.eps]
    table = torch.corrcoef(torch.stack([noise.flatten() for noise in noises]))
    assert (table - torch.eye(7)).abs().max() < 0.06
    levels = [batch.u, batch.u_fake, batch.gan_noise.u, batch.real_noise.u, *batch.crop_positions.T]
    assert (torch.corrcoef(torch.stack(levels)) - torch.eye(6)).abs().max() < 0.4


@pytest.mark.slow
def test_compiled_batches_are_equal_to_the_bit() -> None:
    compiled = tensors(next(batches(compiled=True).starting_at(4)))
    for name, value in tensors(next(batches().starting_at(4))).items():
        assert torch.equal(value, compiled[name]), name


def test_images_are_not_read_where_labels_alone_are_needed() -> None:
    class Unreadable:
        image_shape, label_count = (1, 8, 8), 10
        labels = tuple(range(10))

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            raise AssertionError("an image was read")

    drawn = Batches((1, 8, 8), 10, Unreadable(), 1000, 0, CPU, shows_images=False)
    batch = next(drawn.starting_at(0))
    assert batch.real is None
    assert batch.eps_real is None
    assert (batch.cond.label.bincount(minlength=10) - 100).abs().max() < 40


def test_sources_in_memory_give_the_images_that_a_loader_reads() -> None:
    class ByIndex:
        """The digits without their methods for whole batches."""

        def __init__(self) -> None:
            self.digits = Digits().load()
            self.image_shape, self.label_count = self.digits.image_shape, self.digits.label_count

        def __len__(self) -> int:
            return len(self.digits)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.digits[index]

    settings = {"batch_size": 8, "seed": 3, "device": CPU}
    whole = islice(Batches((1, 8, 8), 10, Digits().load(), **settings).starting_at(2), 3)
    single = islice(Batches((1, 8, 8), 10, ByIndex(), **settings).starting_at(2), 3)
    for batch, other in zip(whole, single, strict=True):
        assert torch.equal(batch.real, other.real)
        assert torch.equal(batch.cond.label, other.cond.label)


def test_an_error_of_a_reading_thread_is_raised_where_its_batch_would_be() -> None:
    def values() -> Iterator[int]:
        yield 1
        yield 2
        raise UserError("no such image")

    read = one_ahead(values())
    assert [next(read), next(read)] == [1, 2]
    with pytest.raises(UserError, match="no such image"):
        next(read)


class Broken:
    """A source whose second image cannot be read."""

    image_shape, label_count = (1, 2, 2), 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 1:
            raise UserError("2.png: cannot be read as an image")
        return torch.zeros(1, 2, 2), 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_said_in_its_own_words(workers: int) -> None:
    with pytest.raises(UserError) as error:
        next(Batches((1, 2, 2), 0, Broken(), 16, 0, CPU, workers=workers).starting_at(0))
    assert str(error.value) == "2.png: cannot be read as an image"
