"""GenEval's detector and colours on tiny random networks of the real classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import pixels_of
from distill.eval.composition.geneval.colors import BACKGROUND, crop_object, open_colors
from distill.eval.composition.geneval.detector import (
    box_of,
    candidates,
    mask_score,
    open_detector,
    prepare,
)
from distill.eval.composition.geneval.networks import check_networks
from distill.eval.composition.geneval.requirements import CLASSES, COLORS
from distill.eval.composition.geneval.rules import Detection
from tests.helpers import tiny_reward_networks
from tests.helpers.drawn_shapes import draw
from tests.helpers.tiny_detectors import mask2former

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    mask2former(root / "detector")
    tiny_reward_networks.clip(root / "clip")
    return root


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 1024), (800, 800), (800, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((300, 900), (444, 1333), (448, 1344)),
    ],
)
def test_sizes_are_those_of_mmdetection(
    size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    pixels, found = prepare(noise(*size))
    assert found == resized
    assert pixels.shape == (1, 3, *padded)


def test_images_are_normalised_and_padded_with_the_mean() -> None:
    pixels, (_, width) = prepare(torch.full((3, 480, 640), 200, dtype=torch.uint8))
    expected = [(200 - 123.675) / 58.395, (200 - 116.28) / 57.12, (200 - 103.53) / 57.375]
    assert pixels[0, :, 5, 7].tolist() == pytest.approx(expected, rel=1e-6)
    assert pixels[:, :, :, width:].abs().max() == 0


def test_images_are_resized_by_the_bilinear_filter_without_antialiasing() -> None:
    image = noise(1600, 1600)
    pixels, _ = prepare(image)
    rows = (torch.arange(800) + 0.5) * 2 - 0.5
    below = rows.floor().long()
    pairs = image.double()[:, below] + image.double()[:, below + 1]
    mean = (pairs[:, :, below] + pairs[:, :, below + 1]) / 4
    assert pixels[0, 0] * 58.395 + 123.675 == pytest.approx(mean[0], abs=1e-3)


def test_candidates_are_the_highest_scores_above_the_threshold() -> None:
    scores = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.05]])
    assert candidates(scores, 0.25) == ([0, 1, 0], [1, 0, 2])


def test_boxes_and_scores_of_masks() -> None:
    logits = torch.full((6, 8), -3.0)
    logits[2:4, 3:7] = 2.0
    logits[3, 3] = 1.0
    assert box_of(logits > 0) == (3.0, 2.0, 7.0, 4.0)
    expected = (7 * torch.tensor(2.0).sigmoid() + torch.tensor(1.0).sigmoid()) / 8
    assert mask_score(logits) == pytest.approx(expected.item(), rel=1e-5)


def every_candidate(network: torch.nn.Module, image: Tensor) -> list[tuple[str, float, Tensor]]:
    """Return name, score and mask of the hundred likeliest candidates, all at once, as mmdetection does."""
    pixels, (height, width) = prepare(image)
    with torch.inference_mode():
        output = network(pixel_values=pixels)
    logits = F.interpolate(output.masks_queries_logits, pixels.shape[2:], mode="bilinear")[0]
    logits = F.interpolate(logits[None, :, :height, :width], image.shape[1:], mode="bilinear")[0]
    scores, places = output.class_queries_logits[0].softmax(-1)[:, :-1].flatten().topk(100)
    masks = logits[places // 80]
    inside = (masks > 0).float()
    quality = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    names = [CLASSES[place] for place in (places % 80).tolist()]
    return list(zip(names, (scores * quality).tolist(), masks > 0, strict=True))


def test_detections_are_those_of_all_candidates_that_are_above_the_threshold(folder: Path) -> None:
    detector = open_detector(str(folder / "detector"), CPU)
    image = noise(60, 80)
    expected = [one for one in every_candidate(detector.network, image) if one[1] > 0.1]
    assert 0 < len(expected) < 100
    found = detector.detect(image, 0.1)
    assert [one.name for one in found] == [name for name, _, _ in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score, _ in expected], rel=1e-5)
    for one, (_, _, mask) in zip(found, expected, strict=True):
        assert torch.equal(one.mask, mask)
        rows, columns = np.nonzero(mask.numpy())
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.box == tuple(float(edge) for edge in edges)


def test_networks_of_other_kinds_or_classes_are_refused(tmp_path: Path) -> None:
    clip = str(tiny_reward_networks.clip(tmp_path / "clip"))
    few = str(mask2former(tmp_path / "few", ["a", "b"]))
    with pytest.raises(UserError, match=r"--detector: .*few knows 2 classes; expected COCO's 80"):
        check_networks(few, clip)
    swapped = str(mask2former(tmp_path / "swapped", [CLASSES[1], CLASSES[0], *CLASSES[2:]]))
    with pytest.raises(UserError, match="has the class 'bicycle'; expected 'person' in its place"):
        check_networks(swapped, clip)
    with pytest.raises(UserError, match=r"--detector: .*absent cannot be opened"):
        check_networks(str(tmp_path / "absent"), clip)
    with pytest.raises(UserError, match=r"--detector: .*clip holds a clip; expected a mask2former"):
        check_networks(clip, clip)
    detector = str(mask2former(tmp_path / "detector"))
    with pytest.raises(UserError, match=r"--clip: .*few holds a mask2former; expected a clip"):
        check_networks(detector, few)
    check_networks(detector, clip)


def test_crops_are_grey_around_the_object() -> None:
    image = pixels_of(draw(("bus", "red", 10, 20), ("clock", "blue", 60, 60)))
    mask = torch.zeros(96, 96, dtype=torch.bool)
    mask[22:28, 12:30] = True
    crop = crop_object(image, Detection("bus", 0.9, (10.0, 20.0, 34.0, 30.0), mask))
    assert crop.shape == (3, 10, 24)
    assert crop[:, 0, 0].tolist() == [BACKGROUND] * 3
    assert crop[:, 5, 5].tolist() == [220, 20, 20]


def test_long_crops_are_cut_around_their_middle() -> None:
    image = torch.arange(200, dtype=torch.uint8).expand(3, 2, 200).contiguous()
    mask = torch.ones(2, 200, dtype=torch.bool)
    crop = crop_object(image, Detection("skis", 0.9, (0.0, 0.0, 200.0, 2.0), mask))
    assert crop.shape == (3, 2, 64)
    assert crop[0, 0, [0, -1]].tolist() == [68, 131]


def test_colours_are_those_of_transformers_own_clip(folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    namer = open_colors(str(folder / "clip"), CPU)
    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "clip")
    processor = CLIPImageProcessorPil.from_pretrained(folder / "clip")
    templates = ["a photo of a {} bus", "a photo of a {}-colored bus", "a photo of a {} object"]
    weights = []
    for color in COLORS:
        texts = [template.format(color) for template in templates]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            embedded = clip.get_text_features(**tokens).pooler_output
        weights.append(F.normalize(F.normalize(embedded, dim=1).mean(0), dim=0))
    objects, expected = [], []
    image = noise(90, 70)
    for left in range(0, 50, 3):
        mask = noise(90, 70)[0] > 100
        objects.append(Detection("bus", 0.9, (float(left), 5.0, left + 20.0, 33.0), mask))
        pixels = image.permute(1, 2, 0).numpy().copy()
        pixels[~mask.numpy()] = 0x99
        crop = Image.fromarray(pixels).crop((left, 5, left + 20, 33))
        with torch.no_grad():
            seen = clip.get_image_features(**processor(crop, return_tensors="pt")).pooler_output[0]
        expected.append(torch.stack(weights) @ F.normalize(seen, dim=0))
    for one, cosines in zip(objects, expected, strict=True):
        assert namer.cosines(image, one).tolist() == pytest.approx(cosines.tolist(), abs=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    names = [COLORS[int(cosines.argmax())] for cosines in expected]
    assert namer.name_colors(image, objects) == names
