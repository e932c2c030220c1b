"""Files of PickScore, HPSv2 and CLIPScore: the published names of weights, and files that are not theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config.errors import UserError
from distill.rewards import of_name
from distill.rewards.pretrained import open_clip
from distill.rewards.pretrained.open_clip import published_weight, read_open_clip, vit_h_14
from distill.rewards.pretrained.weights import load_renamed, meta
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.tiny_similarity import hps, opened, tiny_vit_h_14, write_networks

VIT_H_14 = {
    "vision": (32, 1280, 16),
    "text": (24, 1024, 16),
    "size": 224,
    "patch": 14,
    "words": 49408,
    "length": 77,
    "embedding": 1024,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("similarity"))


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `read_open_clip` the sizes of a tiny ViT-H/14; the published sizes have a test of their own."""
    monkeypatch.setattr(open_clip, "vit_h_14", tiny_vit_h_14)


def test_the_published_names_of_vit_h_14() -> None:
    """Names and shapes of a file of open_clip's ViT-H/14 map one to one to a `CLIPModel`'s."""
    from transformers import CLIPModel

    with torch.device("meta"):
        state = published.OpenCLIP(**VIT_H_14).state_dict()  # type: ignore[arg-type]
    assert len(state) == 8 + 3 * 2 + 12 * (32 + 24)
    assert sum(value.numel() for value in state.values()) == 986_109_441
    assert state["visual.transformer.resblocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    network = load_renamed(meta(lambda: CLIPModel(vit_h_14())), state, published_weight, "here")
    assert sum(parameter.numel() for parameter in network.parameters()) == 986_109_441
    assert network.config.text_config.hidden_act == network.config.vision_config.hidden_act == "gelu"


def test_other_files_are_refused_by_the_first_name_that_differs(root: Path, tmp_path: Path) -> None:
    state = hps(0).state_dict()
    path = tmp_path / "HPS_v2.1_compressed.pt"

    def complaint(content: Any) -> str:
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            read_open_clip(path)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"{path}: ")

    read_open_clip(root / "hps" / "HPS_v2.1_compressed.pt")
    name = "transformer.resblocks.1.attn.in_proj_bias"
    assert (
        complaint({key: value for key, value in state.items() if key != name})
        == f"weights of another architecture: {name} is nothing; expected (72,)"
    )
    shorter = state["visual.proj"][:-1]
    assert (
        complaint(state | {"visual.proj": shorter})
        == "weights of another architecture: visual.proj is (31, 12); expected (32, 12)"
    )
    assert (
        complaint(state | {"more": shorter})
        == "weights of another architecture: it has more, which the network has not"
    )
    assert complaint({"state_dict": [1, 2]}) == "holds a dict; expected weights by name"
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights that torch wrote"):
        read_open_clip(path)


def test_missing_files_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^hpsv2.path: .* holds no HPS_v2.1_compressed.pt$"):
        of_name("hpsv2.1", path=str(tmp_path)).load()
    with pytest.raises(
        UserError,
        match=r"^hpsv2.path: HPS_v2_compressed.pt of nobody/nothing cannot be had \(.*\); "
        r"expected a file, a folder or a",
    ):
        of_name("hpsv2", path="nobody/nothing").load()
    with pytest.raises(UserError, match=r"^pickscore.path: nobody/nothing cannot be opened"):
        of_name("pickscore", path="nobody/nothing").load()
    with pytest.raises(UserError, match=rf"^pickscore.processor: {tmp_path} cannot be opened"):
        of_name("pickscore", path=str(root / "clip"), processor=str(tmp_path)).load()
    tiny_networks.tiny_pipelines.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^pickscore.processor: {tmp_path} has no image processor"):
        of_name("pickscore", path=str(root / "clip"), processor=str(tmp_path)).load()


def test_weights_that_transformers_would_make_up_are_named(root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(root / "clip", tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(path)
    tensors["visual_projection.weight"] = torch.zeros(3, 20)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"holds weights of another architecture: visual_projection.weight is \(3, 20\); "
        r"expected \(12, 20\)$",
    ):
        opened("clipscore", tmp_path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"^clipscore.path: .* holds weights of another architecture: "
        r"it has no visual_projection.weight$",
    ):
        opened("clipscore", tmp_path)
