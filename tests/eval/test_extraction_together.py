"""Several feature networks on one pass over the images: nothing is made twice, and features do not change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import Function
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import SHARD, Request, extract, extract_together
from distill.eval.images.processes import Processes
from distill.eval.images.streams import FileImages
from distill.eval.protocols import Protocol, read_protocol
from tests.helpers.drawn_images import Drawn

PIXEL, EFFNET = read_protocol("fd-pixel"), read_protocol("fd-effnet")
MEANS = Function(lambda images: images.double().mean((2, 3)), "means")
HALVES = Function(lambda images: images[..., ::2].double().mean((2, 3)), "halves")


def together(root: Path, *requests: tuple[Drawn, Protocol, Function]) -> list[Features]:
    return extract_together([Request(*request) for request in requests], root)


def test_every_image_is_made_once_for_all_networks(tmp_path: Path) -> None:
    """One protocol wants 70 images, one the first 40 of the same seeds, and one 70 of other seeds."""
    made: Counter[int] = Counter()
    longer, shorter, other = Drawn(70, 0, made), Drawn(40, 0, made), Drawn(70, 1000, made)
    requests = (
        (shorter, PIXEL, HALVES),
        (longer, PIXEL, MEANS),
        (longer, EFFNET, MEANS),
        (other, PIXEL, MEANS),
    )
    found = together(tmp_path / "together", *requests)
    assert made == Counter([*range(70), *range(1000, 1070)])
    assert [len(features) for features in found] == [40, 70, 70, 70]
    for number, (request, features) in enumerate(zip(requests, found, strict=True)):
        alone = extract(*request, tmp_path / str(number))
        assert torch.equal(features.features, alone.features)
        assert features.images_sha256 == alone.images_sha256
    again = together(tmp_path / "together", *requests)
    assert made.total() == 140 + 70 + 40 + 70 + 70  # those alone; nothing is made again
    assert torch.equal(again[1].features, found[1].features)


def test_one_more_network_makes_images_once_more_and_only_for_itself(tmp_path: Path) -> None:
    stream = Drawn(40)
    seen = []

    def record(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.double().mean((2, 3))

    first = Function(record, "recorded")
    together(tmp_path, (stream, PIXEL, first))
    batches = len(seen)
    together(tmp_path, (stream, PIXEL, first), (stream, PIXEL, HALVES), (stream, PIXEL, MEANS))
    assert stream.made == Counter(2 * list(range(40)))
    assert len(seen) == batches


def test_a_damaged_shard_of_one_network_leaves_the_others(tmp_path: Path) -> None:
    stream = Drawn(40)
    requests = ((stream, PIXEL, HALVES), (stream, PIXEL, MEANS))
    before = together(tmp_path, *requests)
    folders = {path.parent for path in tmp_path.rglob("*.safetensors")}
    assert len(folders) == 2
    file = sorted(tmp_path.rglob("00000000.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    after = together(tmp_path, *requests)
    assert stream.made == Counter([*range(40), *range(SHARD)])
    assert all(torch.equal(a.features, b.features) for a, b in zip(before, after, strict=True))
    notes = [features.notes for features in after]
    damaged = "the generator: 1 damaged shards of features were extracted anew, first 00000000.safetensors"
    assert sorted(notes) == [[], [damaged]]


class OfTwo(Processes):
    """One of two processes that run one after the other: the first one to come does not wait."""

    def gather(self, values: list[Any]) -> list[Any]:
        return values


def test_two_processes_share_the_shards_of_all_networks(tmp_path: Path) -> None:
    stream = Drawn(100)
    requests = [Request(stream, PIXEL, HALVES), Request(Drawn(70, 0, stream.made), PIXEL, MEANS)]
    with pytest.raises(UserError, match=r"00000000.safetensors: no such file$"):
        extract_together(requests, tmp_path / "two", OfTwo(1, 2))  # the other's shards are not there yet
    assert set(stream.made) == {*range(32, 64), *range(96, 100)}
    found = extract_together(requests, tmp_path / "two", OfTwo(0, 2))
    assert stream.made == Counter(range(100))
    alone = extract_together(requests, tmp_path / "one")
    for shared, single in zip(found, alone, strict=True):
        assert torch.equal(shared.features, single.features)
        assert shared.images_sha256 == single.images_sha256


def test_files_are_read_once_and_one_bad_file_costs_only_itself(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(6):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"broken")
    stream = FileImages(tmp_path / "images")
    requests = [Request(stream, PIXEL, HALVES), Request(stream, EFFNET, MEANS)]
    with pytest.raises(UserError, match=r"^1 of 6 images cannot be used: .*3.png: .*the others are kept$"):
        extract_together(requests, tmp_path / "store")
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / "3.png")
    repaired = FileImages(tmp_path / "images")
    read: list[int] = []
    original = repaired.read
    repaired.read = lambda rows: read.extend(rows) or original(rows)  # type: ignore[method-assign]
    requests = [Request(repaired, PIXEL, HALVES), Request(repaired, EFFNET, MEANS)]
    assert [len(features) for features in extract_together(requests, tmp_path / "store")] == [6, 6]
    assert read == [3]


def test_an_image_too_small_for_a_patch_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^4 of 4 images cannot be used: the generator: image 0 is of 8x8 pixels; expected at least "
        r"299x299 for a patch; the features",
    ):
        extract(Drawn(4), read_protocol("patch-fid"), MEANS, tmp_path)
