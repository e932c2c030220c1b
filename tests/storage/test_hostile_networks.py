"""Pickles that hold no known network are refused in one line, by the command that converts them too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.publishing.convert import main as convert
from tests.helpers.hostile_pickles import MODULE, SIZES, SYSTEM, broken, call, denied, network, text, whole

ROOT = Path(__file__).parents[2]
NOT_A_NETWORK = {
    "an empty file": (b"", broken("cannot mmap an empty file")),
    "text": (b"hello\n", broken("101")),
    "a second pickle behind the first": (
        whole(b"}") + whole(SYSTEM),
        denied("goes on after its end"),
    ),
    "no dict": (whole(b"]"), "holds no network under 'ema'"),
    "a dict without a network": (whole(b"}" + text("ema") + b"Ns"), "holds no network under 'ema'"),
    "a dict that holds itself": (whole(b"}\x94" + text("ema") + b"h\x00s"), "holds no network under 'ema'"),
    "an object without weights": (
        whole(b"}" + text("ema") + call("torch.nn.modules.container", "ModuleDict") + b"s"),
        "'ModuleDict' under 'ema' is no network with its arguments",
    ),
    "a module within itself": (
        whole(
            b"}"
            + text("ema")
            + call("torch.nn.modules.container", "ModuleDict")
            + b"\x94}("
            + MODULE
            + text("x")
            + b"h\x00subs"
        ),
        "'ModuleDict' under 'ema' is no network with its arguments",
    ),
    "an unknown class": (
        network("Evil", SIZES),
        "network class 'Evil' is unknown; expected one of EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, "
        "EDMPrecond_EncoderDecoder, Precond, EDM_2_Precond_EncoderDecoder, EDM_2_Precond_Generator",
    ),
    "an unknown backbone": (
        network("EDMPrecond", SIZES, text("model_type"), text("os.system")),
        "model_type 'os.system' is unknown; expected one of DhariwalUNet, SongUNet",
    ),
    "an unknown argument": (
        network("VEPrecond", SIZES, text("hook"), text("x")),
        "VEPrecond has an argument 'hook', which is unknown",
    ),
    "a preconditioning without numbers": (
        network("EDMPrecond", SIZES, text("sigma_data"), b"]"),
        "sigma_data: expected numbers",
    ),
    "a backbone that is no name": (
        network("EDMPrecond", SIZES, text("model_type"), b"]"),
        "model_type 'a list' is unknown; expected one of DhariwalUNet, SongUNet",
    ),
    "an unknown decoder": (
        network("VPPrecond", SIZES, text("decoder_type"), text("skip")),
        "decoder_type is not standard, the only one known",
    ),
    "an unknown filter": (
        network("Precond", SIZES, text("resample_filter"), b"]"),
        "resample_filter is not [1, 1], the only one known",
    ),
    "a network too large to build": (
        network("EDMPrecond", SIZES, text("model_channels"), b"J\xff\xff\xff\x7f"),
        "width: expected whole numbers from 1 to 65536",
    ),
    "a network too deep to build": (
        network("EDMPrecond", SIZES, text("num_blocks"), b"J\xff\xff\xff\x7f"),
        "blocks: expected whole numbers from 1 to 64",
    ),
    "an embedding too large to build": (
        network("EDMPrecond", SIZES, text("channel_mult_emb"), b"M\xff\xff"),
        "embedding_multiplier: expected whole numbers from 1 to 64",
    ),
    "a large network without its weights": (
        network("EDMPrecond", SIZES, text("model_channels"), b"M\x00\x40"),
        "weights of another architecture: model.map_layer0.weight is nothing; expected (65536, 16384)",
    ),
}


@pytest.mark.parametrize("case", NOT_A_NETWORK)
def test_a_file_without_a_network_that_we_know_is_refused(refused, case: str) -> None:
    data, message = NOT_A_NETWORK[case]
    assert refused(data) == message


def test_a_hostile_file_ends_the_command_with_nothing_written(refused, tmp_path: Path) -> None:
    refused(whole(SYSTEM))
    with pytest.raises(UserError, match=r"asks for os\.system"):
        convert([str(tmp_path / "network.pkl"), str(tmp_path / "out")])
    assert [file.name for file in tmp_path.iterdir()] == ["network.pkl"]


def test_the_command_refuses_a_network_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(network("Precond", SIZES, text("clip_act"), text("none")))
    command = [sys.executable, "-m", "distill", "convert", str(path), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (
        2,
        "",
        f"error: {path}: largest_activation: expected a number\n",
    )
