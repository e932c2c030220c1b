"""A dry run says what one process of several holds and sends, as by hand from the shapes of the weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.diffusion.schedules import EDM
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes
from distill.training.dry_run import distillation
from distill.training.dry_run.cost import Cost, measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.passes import Passes
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.sharded import ShardedNetwork, sharded_networks
from distill.training.dry_run.step import FAKE_UPDATE, META, meta_teacher_of
from distill.training.parallel.settings import ShardingSettings
from distill.types import Condition
from tests.helpers.runs import read_run, write_run
from train import main

MIB = 1 << 20
FULL = {"sharding": {"strategy": "full"}}
HYBRID = {"sharding": {"strategy": "hybrid", "group_size": 2}}
KEPT = {"sharding": {"strategy": "full", "reshard_after_forward": False}}
DMD = {"objective": {"name": "distribution_matching", "divergence": "reverse_kl"}}
HEADS = {"reads": "fake", "real": "data", "width": 4}
PENALTY = {**DMD, "data": {"name": "digits"}, "discriminator": {**HEADS, "r1": {"weight": 1.0}}}


@pytest.fixture(autouse=True)
def no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time, and counts no traffic."""
    monkeypatch.setattr(distillation, "preview", lambda generator, batch: None)


def cost(folder: Path, processes: int = 4, **settings: Any) -> Cost:
    """Return the cost of one of several processes of a run of a small U-Net."""
    config = read_run(write_run(folder, **{"batch_size": 8, **settings}))
    plan = Plan.of(config, processes)
    own = plan.of_one_process(config)
    return measure_own(simulate_distillation(own, meta_teacher_of(own), META, plan), own)


def shapes(folder: Path) -> list[torch.Size]:
    """Return the shapes of the weights of the teacher, which student and fake score have too."""
    return [weight.shape for weight in meta_teacher_of(read_run(write_run(folder))).parameters()]


def part(folder: Path, shards: int) -> int:
    """Return the elements of a process's rows of such a network: those of the largest part."""
    return sum(math.ceil(shape[0] / shards) * math.prod(shape[1:]) for shape in shapes(folder))


@pytest.mark.parametrize(
    ("settings", "shards"), [(FULL, 4), (HYBRID, 2), ({}, 1)], ids=["full", "hybrid", "none"]
)
def test_a_process_holds_its_rows_of_each_network(
    settings: dict[str, Any], shards: int, tmp_path: Path
) -> None:
    """Three networks have weights, two have Adam's moments, and one has an average."""
    held = cost(tmp_path, **settings).held
    rows = part(tmp_path, shards)
    assert held["weights"] == 3 * 4 * rows
    assert held["optimiser"] == 2 * 2 * 4 * rows
    assert held["average"] == 4 * rows


def test_a_process_holds_its_rows_in_fewer_bits_and_their_masters(tmp_path: Path) -> None:
    held = cost(tmp_path, **FULL, precision="bf16-true").held
    rows = part(tmp_path, 4)
    assert held["weights"] == 3 * 2 * rows
    assert held["optimiser"] == 2 * (4 + 2 * 4) * rows


def test_heads_of_a_discriminator_are_whole(tmp_path: Path) -> None:
    settings = {**DMD, "data": {"name": "digits"}, "discriminator": HEADS}
    with_heads, without = cost(tmp_path, **FULL, **settings), cost(tmp_path, **FULL, **DMD)
    config = read_run(write_run(tmp_path, batch_size=8, **settings))
    simulated = simulate_distillation(config, meta_teacher_of(config), META)
    heads = sum(weight.numel() for weight in simulated.networks["discriminator"].parameters())
    assert with_heads.held["weights"] - without.held["weights"] == 4 * heads
    assert with_heads.held["optimiser"] - without.held["optimiser"] == 2 * 4 * heads
    # In a ring of 4 processes each sends 2 3/4 of what is summed.
    assert (without.traffic.averaged, with_heads.traffic.averaged) == (0, 1.5 * 4 * heads)


@pytest.mark.parametrize(
    ("settings", "passes", "backward"),
    [
        # Generator and fake score forward, fake score back; teacher and fake score forward, all three back.
        pytest.param(FULL, 8, 2, id="score matching"),
        # Only a forward pass gathers, and the generator's backward pass, since weights are freed in between.
        pytest.param(KEPT, 5, 2, id="without resharding"),
        # Teacher and fake score have no backward pass in the generator's update.
        pytest.param({**FULL, **DMD}, 6, 2, id="distribution matching"),
        pytest.param({**FULL, "fake": {"updates": 2}}, 3 + 8, 3, id="two fake updates"),
        # The generator makes its images anew in its own update.
        pytest.param({**FULL, "micro_batch_size": 1}, 2 * 9, 2 * 2, id="micro-batches"),
        pytest.param({**FULL, "activation_checkpointing": True}, 8, 2, id="recomputation"),
        # A batch takes one or two steps, so that the first is one half of a pass.
        pytest.param({**FULL, "generator": {"steps": 2}}, 8.5, 2, id="two steps"),
        # The fake score is gathered once for prediction, features, and first and second derivatives.
        pytest.param({**FULL, **PENALTY}, 5, 2, id="exact penalty"),
    ],
)
def test_what_a_process_sends_for_sharded_networks(
    settings: dict[str, Any], passes: float, backward: int, tmp_path: Path
) -> None:
    """Every pass gathers a network, and every backward pass of a trained one scatters its gradients."""
    sent = cost(tmp_path, **settings).traffic
    to_the_others = (4 - 1) * 4 * part(tmp_path, 4)
    assert sent.gathered == pytest.approx(passes * to_the_others)
    assert sent.scattered == backward * to_the_others


def test_copies_of_sharded_networks_average_their_parts_of_gradients(tmp_path: Path) -> None:
    """Two of the 4 processes share a copy, and two copies have the same part."""
    sent = cost(tmp_path, **HYBRID).traffic
    rows = 4 * part(tmp_path, 2)
    assert (sent.gathered, sent.scattered) == (8 * rows, 2 * rows)
    assert sent.averaged == 2 * (2 - 1) / 2 * 2 * rows


def test_whole_networks_average_the_gradients_of_each_update(tmp_path: Path) -> None:
    """Micro-batches add up gradients before they are sent."""
    weights = 4 * part(tmp_path, 1)
    for micro_batch in (None, 1):
        sent = cost(tmp_path, micro_batch_size=micro_batch, fake={"updates": 2}).traffic
        assert sent == (0, 0, 2 * (4 - 1) / 4 * 3 * weights)
    assert cost(tmp_path, processes=1).traffic == (0, 0, 0)


class Scaled(MLP):
    """A network with a parameter that has no dimensions."""

    def __init__(self) -> None:
        super().__init__(MLPConfig(4, sizes=MLPSizes(width=8, blocks=2)), EDM())
        self.gain = nn.Parameter(torch.ones(()))


BLOCK = 4 * (16 * 8 + 16 + 16 * 8 + 16 + 8 * 16 + 8)
"""Bytes of a block of `Scaled`: scale and shift, and two layers."""
OUTSIDE = 4 * (2 * (8 * 8 + 8) + 2 * 8 + 8 * 4 + 8 + 4 * 8 + 4)
"""Bytes of what is outside its blocks. The embedding of its only label is filled up to two rows."""


def test_a_network_is_gathered_by_its_blocks_and_what_is_outside() -> None:
    network = ShardedNetwork.of(Scaled(), ("features",), shards=2)
    assert [unit.whole for unit in network.blocks] == [BLOCK, BLOCK]
    assert (network.outside.whole, network.outside.part) == (OUTSIDE, OUTSIDE // 2)
    assert network.whole == OUTSIDE + 2 * BLOCK
    assert network.one_by_one == network.gradients == OUTSIDE + 2 * BLOCK  # a block, and a buffer for it
    assert not [weight for weight in network.parameters if not weight.ndim]


@pytest.mark.parametrize("keeps", [False, True])
def test_memory_of_what_is_gathered_and_scattered_in_a_step(keeps: bool) -> None:
    network = Scaled()
    sharded = ShardedNetwork.of(network, (), shards=2)
    x_t, t = torch.randn(3, 4), torch.ones(3)
    with Passes([sharded], [network], Plan(2, 1, 1, 2)) as passes:
        passes.begin(network if keeps else None)
        with torch.no_grad():
            network(x_t, t, Condition())
        assert passes.memory == OUTSIDE + (3 if keeps else 2) * BLOCK
        network(x_t, t, Condition()).sum().backward()
        scattered = OUTSIDE + 2 * BLOCK
        assert passes.memory == OUTSIDE + (3 if keeps else 2) * BLOCK + scattered
        assert passes.of_passes.scattered == (OUTSIDE + 2 * BLOCK) / 2
        gathered = 1 if keeps else 3
        assert passes.of_passes.gathered == gathered * (OUTSIDE + 2 * BLOCK) / 2
    assert all(weight.grad is None for weight in sharded.parameters)
    assert "forward" not in vars(network)


def test_an_exact_penalty_holds_the_network_that_it_differentiates(tmp_path: Path) -> None:
    """The other network of the update, the generator, is gathered block by block beside it."""
    exact = cost(tmp_path, **FULL, **PENALTY)
    config = read_run(write_run(tmp_path, batch_size=8, **FULL, **PENALTY))
    plan = Plan.of(config, 4)
    own = plan.of_one_process(config)
    simulated = simulate_distillation(own, meta_teacher_of(own), META, plan)
    assert simulated.kept == {FAKE_UPDATE: simulated.networks["fake"]}
    freed = measure_own(dataclasses.replace(simulated, kept={}), own)
    (fake,) = [network for network in simulated.sharded if network.outside.module in simulated.kept.values()]
    more = exact.added[FAKE_UPDATE] - freed.added[FAKE_UPDATE]
    assert more == fake.whole + fake.largest_block - fake.one_by_one


class Codec:
    """A teacher's autoencoder."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def components(self) -> dict[str, nn.Module]:
        return {"vae": self.network}


class Decoder(nn.Linear):
    """An autoencoder that is called by a method."""

    def decode(self, latents: Tensor) -> Tensor:
        return self(latents)


@pytest.mark.parametrize(("smallest", "is_sharded"), [(20, True), (21, False)])
def test_large_autoencoders_are_sharded_too(smallest: int, is_sharded: bool) -> None:
    network = Scaled()
    network.codec = Codec(Decoder(4, 4))  # type: ignore[assignment]
    settings = ShardingSettings(strategy="full", min_component_parameters=smallest)
    networks = {"teacher": network, "vae": network.codec.components()["vae"]}
    found = sharded_networks(networks, Plan(2, 1, 1, 2), settings)
    assert [network.outside.part for network in found] == [OUTSIDE // 2, 4 * 10][: 1 + is_sharded]
    if is_sharded:
        assert found[1].entry_points == ("forward", "decode")


def test_a_run_of_several_processes_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path, batch_size=8, **HYBRID)
    main([str(file), "--dry-run", "--processes", "4", "--nodes=2"])
    said = capsys.readouterr().out
    assert (
        "one of 4 processes on 2 machines, with 2 of 8 images; "
        "sharding hybrid: 2 copies of the networks, each in 2 parts"
    ) in said
    assert "memory of one process: 2 images at once" in said
    rows = 4 * part(tmp_path, 2)
    assert f"{3 * rows / MIB:>12,.1f} MiB  weights\n" in said
    assert "sent by one process in a step:\n" in said
    assert f"{8 * rows / MIB:>12,.1f} MiB  weights gathered\n" in said
    assert f"{2 * rows / MIB:>12,.1f} MiB  gradients scattered\n" in said
    assert f"{2 * rows / MIB:>12,.1f} MiB  gradients averaged\n" in said


def test_a_group_is_a_machine_unless_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path, batch_size=8, sharding={"strategy": "hybrid"})
    main([str(file), "--dry-run", "--processes", "8", "--nodes", "4"])
    assert "4 copies of the networks, each in 2 parts" in capsys.readouterr().out
    main([str(file), "--dry-run", "--processes", "8"])
    assert "on 1 machine, with 1 of 8 images; sharding hybrid: 1 copy of the" in capsys.readouterr().out


def test_one_process_is_described_as_without_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write_run(tmp_path))
    main([file, "--dry-run"])
    said = capsys.readouterr().out
    assert "sent by" not in said
    assert "processes" not in said
    main([file, "--dry-run", "--processes", "1"])
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "3"], "batch_size: 8 does not split over 3 processes"),
        (["--processes", "8", "--nodes", "3"], "--nodes: 3 does not divide the 8 processes; expected a div"),
        (["--nodes", "2"], "--nodes: belongs to --processes; expected both, or neither"),
        (["--processes"], "--processes: expected the number of processes after it, such as 8"),
        (["--processes", "1.5"], "--processes: expected the number of processes after it, such as 8"),
        (["--processes", "4", "--nodes=-2"], "--nodes: expected the number of machines after it, such as 2"),
        (
            ["--sharding.strategy", "full"],
            "sharding.strategy: is full; expected none for one process, or --processes and their number",
        ),
        (
            ["--processes", "4", "--sharding", "{strategy: hybrid, group_size: 3}"],
            "sharding.group_size: 3 does not divide the 4 processes; expected a divisor",
        ),
    ],
)
def test_processes_that_no_run_has_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    file = write_run(tmp_path, batch_size=8)
    with pytest.raises(UserError) as error:
        main([str(file), "--dry-run", *words])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("word", ["--processes", "--nodes=2"])
def test_words_of_a_dry_run_are_refused_without_it(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--(processes|nodes): belongs to --dry-run; expected both"):
        main([str(write_run(tmp_path)), word])


def test_a_teacher_that_is_trained_is_described_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"task": "train_teacher", "data": {"name": "digits"}, "network": {"width": 8, "blocks": 1}}
    file = write_run(tmp_path, batch_size=8, **FULL, **settings)
    main([str(file), "--dry-run", "--processes", "2"])
    said = capsys.readouterr().out
    assert "one of 2 processes on 1 machine, with 4 of 8 images; sharding full: 1 copy" in said
    assert "MiB  weights gathered" in said
    assert "a step reads 4 images" in said
