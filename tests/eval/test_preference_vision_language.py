"""HPSv3 and VQAScore as scores of `python -m eval preference`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.data.images import from_bytes
from distill.eval.preference.score_names import choose_scores, open_scorer, printed
from distill.rewards import of_name
from distill.rewards.pretrained.vision_language import hpsv3
from tests.helpers import tiny_vision_language as tiny
from tests.helpers.preference_runs import preference
from tests.helpers.tiny_reward_networks import pixels, prompted

PROMPTS = ("a cat", "two dogs", "a house")


def test_the_command_scores_images_and_names_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hpsv3, "PIXELS", 1024)
    preferred = tiny.hpsv3_folder(tmp_path / "hpsv3", tiny.hpsv3_network())
    chat = tiny.chat_model(tmp_path / "Tiny-VL", "qwen2_5_vl")
    images = pixels(3)
    (tmp_path / "images").mkdir()
    for row, image in enumerate(tiny.to_images(images)):
        image.save(tmp_path / "images" / f"{row}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    weights = [
        f"hpsv3={preferred}",
        f"hpsv3.processor={preferred}",
        "hpsv3.dtype=float32",
        f"vqascore={chat}",
        "vqascore.dtype=float32",
    ]
    arguments = f"--images {tmp_path}/images --prompts {tmp_path}/prompts.txt --weights "
    results = preference(tmp_path, arguments + " --weights ".join(weights), "hpsv3,vqascore")
    settings = {
        "hpsv3": {"path": str(preferred), "processor": str(preferred)},
        "vqascore": {"path": str(chat)},
    }
    for name, own in settings.items():
        reward = of_name(name, dtype="float32", **own).load()
        with torch.no_grad():
            expected = reward(from_bytes(images), prompted(*PROMPTS))
        assert results["scores"][name]["values"] == pytest.approx(expected.tolist(), abs=1e-6)
        assert len(set(results["scores"][name]["values"])) == 3
    assert results["scores"]["hpsv3"]["title"] == "HPSv3"
    assert results["scores"]["vqascore"]["title"] == "VQAScore, Tiny-VL"
    assert results["scores"]["vqascore"]["files"] == {"path": str(chat)}
    assert results["scores"]["vqascore"]["settings"]["question"] == (
        'Does this figure show "{}"? Please answer yes or no.'
    )
    assert "VQAScore, Tiny-VL" in capsys.readouterr().out
    assert (tmp_path / "result-vqascore.png").is_file()


def test_the_identity_of_a_score_leaves_out_how_it_is_computed(tmp_path: Path) -> None:
    chat = tiny.chat_model(tmp_path / "chat", "qwen2_vl")
    found = []
    for weights in (["vqascore.checkpoint=false"], ["vqascore.answer=N"], []):
        chosen = choose_scores(f"vqascore:{chat}", weights)
        found.append(open_scorer("vqascore", chosen["vqascore"], torch.device("cpu")).identity)
    assert found[0] == found[2]
    assert found[1]["settings"] == {**found[2]["settings"], "answer": "N"}


def test_a_logarithm_has_another_title() -> None:
    assert printed("vqascore", of_name("vqascore")).title == "VQAScore, Qwen2.5-VL-7B-Instruct"
    assert printed("vqascore", of_name("vqascore", scale="log")).title == (
        "log VQAScore, Qwen2.5-VL-7B-Instruct"
    )
