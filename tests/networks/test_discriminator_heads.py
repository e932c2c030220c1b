"""The discriminator's heads: logits of features at several depths."""

import torch

from distill.networks.discriminator import ChannelMean, Discriminator
from distill.networks.edm.edm import DhariwalUNet, DhariwalUNetConfig, SongUNet, SongUNetConfig


def test_a_discriminator_averages_its_heads_sample_by_sample() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator("teacher", {"8": 4, "4": 8}, width=8)
    features = {"8": torch.randn(3, 4, 8, 8), "4": torch.randn(3, 8, 4, 4)}
    logits = discriminator(features)
    one = discriminator({name: value[1:2] for name, value in features.items()})
    assert logits.shape == (3,)
    torch.testing.assert_close(logits[1:2], one)
    single = [discriminator.heads[name](value).mean((1, 2, 3)) for name, value in features.items()]
    torch.testing.assert_close(logits, torch.stack(single).mean(0))


def test_the_channel_mean_is_a_logit_for_each_position() -> None:
    features = {"8": torch.tensor([[[[1.0, 2.0]], [[3.0, -2.0]]]]), "4": torch.tensor([[[[7.0]], [[5.0]]]])}
    assert ChannelMean(("8", "4"))(features).tolist() == [[2.0, 0.0, 6.0]]


def outputs_of(layer: torch.nn.Module) -> list[torch.Tensor]:
    """Return a list that collects the layer's outputs as it runs."""
    outputs: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


def test_the_smallest_resolution_is_the_end_of_the_encoder_and_bottleneck_the_middle_s_output() -> None:
    torch.manual_seed(0)
    sizes = {
        "resolution": 16,
        "channels": 3,
        "label_count": 0,
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 2,
    }
    for network in (SongUNet(SongUNetConfig(**sizes), 3), DhariwalUNet(DhariwalUNetConfig(**sizes), 3)):
        last, middle = outputs_of(network.enc["8x8_block1"]), outputs_of(network.dec["8x8_in1"])
        _, _, features = network.encode(torch.randn(1, 3, 16, 16), network.embed(torch.tensor([0.1]), None))
        assert torch.equal(features["8"], last[0])
        assert torch.equal(features["bottleneck"], middle[0])
