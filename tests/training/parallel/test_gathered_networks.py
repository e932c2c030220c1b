"""Sharded networks give what whole ones give: hidden states of layers, and outputs of changed weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from distill.training.parallel.processes import Processes
from distill.training.parallel.settings import ShardingSettings
from distill.training.parallel.sharding import Sharding
from distill.training.parallel.shards import local


@pytest.fixture
def alone() -> Iterator[Processes]:
    """Return a process that shares networks with itself."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    yield Processes(torch.device("cpu"), mesh=mesh)
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_hidden_states_of_a_sharded_text_encoder(kind: str, alone: Processes) -> None:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "projection_dim": 16}
    config = transformers.CLIPTextConfig(vocab_size=32, num_hidden_layers=2, **sizes)
    encoder = getattr(transformers, kind)(config).eval()
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        whole = encoder(tokens, output_hidden_states=True)
        Sharding(ShardingSettings(strategy="full"), alone).shard(encoder)
        sharded = encoder(tokens, output_hidden_states=True)
    assert len(sharded.hidden_states) == len(whole.hidden_states) == 3
    for found, expected in zip(sharded.hidden_states, whole.hidden_states, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(sharded[0], whole[0])


def test_a_freed_network_computes_with_its_new_weights(alone: Processes) -> None:
    """Without a backward pass, as for the average, nothing else frees what a forward pass gathered."""
    settings = ShardingSettings(strategy="full", reshard_after_forward=False)
    network, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    sharding = Sharding(settings, alone)
    sharding.shard(network)
    rows = local(network.weight)
    with torch.no_grad():
        before = network(x)
        sharding.free(network)
        rows.add_(1.0)
        after = network(x)
    torch.testing.assert_close(after, before + 2.0)
