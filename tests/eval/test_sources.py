"""Streams of real images, files and networks: bytes, labels, order, seeds and errors."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.data.option import parse_data
from distill.data.sources.digits import Settings as Digits
from distill.data.sources.emoji import Settings as Emoji
from distill.diffusion.sampling import balanced_labels, seeded_noise
from distill.eval.features import quantise
from distill.eval.features.pixels import pixels
from distill.eval.images.streams import NetworkImages
from distill.eval.run.arguments import parse
from distill.eval.run.subjects import array_file_images, folder_images, open_files, open_real
from distill.publishing.samples import save_samples
from distill.types import Condition, Generator
from tests.helpers.image_sets import byte_images, image_set, labels_of, pixels_of, pixels_sha256

REAL = open_real(Digits()).train
HELD_OUT = open_real(Digits()).held_out


class Recorder(Generator):
    """A generator that remembers what it was asked, and whose first image takes a while."""

    image_shape = (1, 2, 2)
    label_count = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        if not self.asked:
            time.sleep(0.5)
        self.asked.append((z, cond.label))
        return self.weight * z


def test_quantised_pixels() -> None:
    images = torch.tensor([-1.0, -0.5, 0.0, 1.0, 2.0, -3.0, 0.003]).reshape(7, 1, 1, 1)
    assert quantise(images).flatten().tolist() == [0, 64, 128, 255, 255, 0, 128]
    features = pixels(quantise(images))
    assert features.dtype == torch.float64
    assert features.shape == (7, 1)
    assert features.flatten().tolist() == [byte / 127.5 - 1 for byte in (0, 64, 128, 255, 255, 0, 128)]
    images[4] = float("nan")
    with pytest.raises(
        UserError, match=r"^those: 1 of 7 images have values that are not finite, first image 4$"
    ):
        quantise(images, "those")


def test_the_pixels_of_large_images_are_no_features() -> None:
    assert pixels(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).shape == (1, 4096)
    with pytest.raises(
        UserError,
        match=r"^images of \(3, 64, 64\): their 12288 values are no features; "
        r"expected at most 4096; for larger",
    ):
        pixels(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_real_digits_in_bytes() -> None:
    assert HELD_OUT is not None
    found = (REAL.image_shape, len(REAL), len(HELD_OUT), REAL.label_count)
    assert found == ((1, 8, 8), 1437, 360, 10)
    assert torch.equal(pixels_of(REAL), to_bytes(Digits().load("train").images))
    assert labels_of(REAL) == Digits().load("train").labels.tolist()


def test_hash_depends_on_bytes_and_order() -> None:
    assert HELD_OUT is not None
    pixels = pixels_of(HELD_OUT)
    assert image_set(HELD_OUT, "held out").sha256 == pixels_sha256(pixels)
    assert image_set(byte_images(pixels.flip(0)), "flipped").sha256 == pixels_sha256(pixels.flip(0))
    assert (
        image_set(byte_images(torch.zeros(4, 1, 1, 2, dtype=torch.uint8)), "black").sha256
        == "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
    )


def test_student_is_sampled_by_seed_with_balanced_labels_and_timed_after_a_warm_up() -> None:
    recorder = Recorder()
    stream = NetworkImages(recorder, 7, first_seed=5, batch_size=3)
    stream.warm_up()
    found = pixels_of(stream)
    assert [len(z) for z, _ in recorder.asked] == [3, 3, 3, 1]  # one batch for warming up
    assert torch.equal(found, to_bytes(seeded_noise(range(5, 12), (1, 2, 2))))
    assert labels_of(stream) == [0, 1, 2, 0, 1, 2, 0]
    assert torch.cat([label for _, label in recorder.asked[1:]]).tolist() == labels_of(stream)
    assert stream.evaluations == 1
    assert 0 < stream.seconds < 0.4  # without the first call's half second


def test_samples_of_sample_py_come_with_their_labels_and_without_their_grid(tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, 12 * 64).reshape(12, 1, 8, 8)
    save_samples(images, range(12), balanced_labels(12, 10), tmp_path / "samples", {})
    found = folder_images(tmp_path / "samples", REAL)
    assert torch.equal(pixels_of(found), to_bytes(images))
    assert labels_of(found) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    save_samples(images, range(12), Condition(), tmp_path / "unlabelled", {})
    assert folder_images(tmp_path / "unlabelled", REAL).label_count == 0
    (tmp_path / "unlabelled" / "samples.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"samples.json: lists no images$"):
        folder_images(tmp_path / "unlabelled", REAL)
    (tmp_path / "unlabelled" / "samples.json").write_text('{"files": []}')
    with pytest.raises(
        UserError,
        match=r"samples.json: is not what sample.py writes; "
        r"expected 'images' of 'file', 'label', 'seed' and 'prompt'$",
    ):
        folder_images(tmp_path / "unlabelled", REAL)


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.fromarray(np.full((8, 8), 20 * label, dtype=np.uint8)).save(tmp_path / str(label) / "a.png")
    found = folder_images(tmp_path, REAL)
    assert labels_of(found) == list(range(10))
    assert pixels_of(found)[:, 0, 0, 0].tolist() == [20 * label for label in range(10)]
    (tmp_path / "other").mkdir()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "other" / "a.png")
    with pytest.raises(
        UserError,
        match=r"has sub-folders with names, which are not known as labels; .* "
        r"as the labels of the data, 0 to 9$",
    ):
        folder_images(tmp_path, REAL)


def test_arrays_with_and_without_labels(tmp_path: Path) -> None:
    array = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", images=array, labels=np.arange(5))
    assert array_file_images(tmp_path / "a.npy", REAL).label_count == 0
    np.save(tmp_path / "four.npy", np.zeros((5, 8, 8, 4), dtype=np.uint8))
    with pytest.raises(
        UserError, match=r"four.npy: 'images' is uint8 \(5, 8, 8, 4\); expected 1 or 3 channels$"
    ):
        array_file_images(tmp_path / "four.npy", REAL)
    assert np.array_equal(pixels_of(array_file_images(tmp_path / "b.npz", REAL))[:, 0].numpy(), array)
    options = parse(["--array", str(tmp_path / "b.npz"), "--data", "digits"], [])
    assert labels_of(open_files(dataclasses.replace(options, n=3), REAL)) == [0, 1, 3]
    with pytest.raises(UserError, match=r"^--n 6: .*b.npz holds 5 images; expected at most as many$"):
        open_files(dataclasses.replace(options, n=6), REAL)


def test_images_that_do_not_fit_the_data_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.zeros((5, 16, 16), dtype=np.uint8))
    np.savez(tmp_path / "labels.npz", images=np.zeros((5, 8, 8), dtype=np.uint8), labels=np.full(5, 12))
    with pytest.raises(
        UserError, match=r"large.npy: images of \(1, 16, 16\); expected \(1, 8, 8\) as the data's"
    ):
        array_file_images(tmp_path / "large.npy", REAL)
    with pytest.raises(
        UserError, match=r"labels.npz: label 12 is out of range; expected labels from 0 to 9 as the data's"
    ):
        array_file_images(tmp_path / "labels.npz", REAL)


def test_data_from_the_command_line(tmp_path: Path) -> None:
    assert parse_data("digits") == Digits()
    np.save(tmp_path / "a.npy", np.full((5, 4, 4), 7, dtype=np.uint8))
    np.save(tmp_path / "b.npy", np.full((6, 4, 4), 9, dtype=np.uint8))
    real = open_real(parse_data(f"array:{tmp_path / 'a.npy'}:{tmp_path / 'b.npy'}"))
    assert real.held_out is not None
    assert (len(real.train), int(pixels_of(real.train).max())) == (5, 7)
    assert (len(real.held_out), int(pixels_of(real.held_out).max())) == (6, 9)
    assert open_real(parse_data(f"array:{tmp_path / 'a.npy'}")).held_out is None
    with pytest.raises(
        UserError, match=r"^--data digit: 'digit' is not in distill/data/sources; did you mean 'digits'\?$"
    ):
        parse_data("digit")
    with pytest.raises(UserError, match=r"^--data digits:x: digits takes no path; expected --data digits$"):
        parse_data("digits:x")
    with pytest.raises(UserError, match=r"^--data array: expected array:PATH or array:PATH:HELD_OUT_PATH$"):
        parse_data("array")
    small = parse_data("{name: emoji, resolution: 16, styles: [3d]}")
    assert small == Emoji(resolution=16, styles=("3d",))
    assert parse_data("emoji") == Emoji()
    with pytest.raises(
        UserError, match=r"^--data: the data are latents, and images are compared; expected real images$"
    ):
        open_real(parse_data("latents:nowhere"))
    with pytest.raises(
        UserError, match=r"^--data: styles.0: expected 'noto', 'twemoji' or '3d'; found 'flat'$"
    ):
        parse_data("{name: emoji, styles: [flat]}")
