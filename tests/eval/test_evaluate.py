"""Metrics of sets of images whose numbers are known; the monitor; the grids and the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes, to_bytes
from distill.data.sources.digits import Settings as Digits
from distill.diffusion.samplers import Heun
from distill.eval.features import Function, load_extractor
from distill.eval.features.pixels import pixels
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.images.extraction import prepare
from distill.eval.images.streams import NetworkImages
from distill.eval.metrics.memorisation import memorisation
from distill.eval.monitor import FrechetMonitor, build_monitor
from distill.eval.protocols import read_protocol
from distill.eval.run.evaluate import ImageSet, RealImages, evaluate, measure_images, sampling_times
from distill.eval.run.grids import by_label, fill, save_grids
from distill.eval.run.results import EvalResults, Role
from distill.eval.run.table import render
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.training.config import read_config
from tests.helpers.alone import ALONE
from tests.helpers.image_sets import byte_images, image_set, pixels_sha256

PROTOCOL = read_protocol("fd-pixel")


class Split:
    """Real digits in bytes, and their labels."""

    def __init__(self, name: str) -> None:
        source = Digits().load(name)
        self.pixels = to_bytes(source.images)
        self.labels = source.labels

    def measured(self, name: str = "images", count: int | None = None, labelled: bool = True) -> ImageSet:
        """Measure the first `count` images."""
        labels = self.labels[:count] if labelled else None
        return image_set(byte_images(self.pixels[:count], labels, 10 if labelled else 0), name)


TRAIN, HELD_OUT = Split("train"), Split("held_out")


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return TRAIN.measured("real training images")


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return HELD_OUT.measured("real held-out images")


def fd_by_scipy(a: Tensor, b: Tensor) -> float:
    x, y = (pixels.numpy().reshape(len(pixels), -1) / 127.5 - 1 for pixels in (a, b))
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    # The regular part of the root: three pixels of the digits are always 0.
    ridge = 1e-14 * np.eye(len(cov_x))
    root = np.trace(scipy.linalg.sqrtm((cov_x + ridge) @ (cov_y + ridge)).real)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x + cov_y) - 2 * root)


@pytest.fixture(scope="module")
def results(train: ImageSet, held_out: ImageSet) -> EvalResults:
    """Copies of training images in the role of the student, held-out images in the teacher's."""
    copied = TRAIN.labels[:300]
    wrong = torch.where(torch.arange(300) < 75, (copied + 1) % 10, copied)
    student = image_set(byte_images(TRAIN.pixels[:300], wrong, 10), "student")
    teacher = HELD_OUT.measured("teacher", 300)
    found = evaluate({"student": student, "teacher": teacher}, train, held_out, PROTOCOL, seed=7)
    times = sampling_times({"student": sampled(0.6), "teacher": sampled(9.0, Heun())})
    assert times is not None
    return {**found, "sampling": times}


def sampled(seconds: float, sampler: Heun | None = None) -> NetworkImages:
    """A stream of 300 images whose sampling took so many seconds."""
    network = UNet(UNetConfig(8, 1, 10, sizes=UNetSizes(width=8, multipliers=(1,), blocks=1)))
    made = network if sampler else FewStepGenerator(network, 2.5)
    stream = NetworkImages(made, 300, sampler=sampler, batch_size=64)
    stream.seconds = seconds
    return stream


def test_distances(results: EvalResults) -> None:
    assert (results["protocol"], results["n"], results["seed"]) == ("fd-pixel", 300, 7)
    assert results["student"]["fd_pixel"] == pytest.approx(
        fd_by_scipy(TRAIN.pixels[:300], TRAIN.pixels), rel=1e-6
    )
    assert results["student"]["held_out"]["fd_pixel"] == pytest.approx(
        fd_by_scipy(TRAIN.pixels[:300], HELD_OUT.pixels), rel=1e-6
    )
    assert results["teacher"]["fd_pixel"] == pytest.approx(
        fd_by_scipy(HELD_OUT.pixels[:300], TRAIN.pixels), rel=1e-6
    )
    assert results["reference"]["fd_pixel"] == pytest.approx(
        fd_by_scipy(HELD_OUT.pixels, TRAIN.pixels), rel=1e-6
    )


def test_shares(results: EvalResults) -> None:
    assert results["student"]["precision"] == 1.0
    assert results["student"]["memorised"] == 1.0
    assert results["teacher"]["memorised"] == 0.0
    assert results["teacher"]["held_out"]["precision"] == 1.0
    assert results["teacher"]["held_out"]["recall"] >= 300 / 360
    # Three quarters of the copies carry their own label, which the classifier was trained on.
    assert results["student"]["label_agreement"] == pytest.approx(0.75, abs=0.01)
    assert results["teacher"]["label_agreement"] >= 0.99


def test_reference_and_provenance(results: EvalResults) -> None:
    reference = results["reference"]
    assert (reference["train_images"], reference["held_out_images"]) == (1437, 360)
    assert reference["memorised"] == 1437 / 1797
    assert (
        reference["classifier_accuracy"]
        == reference["label_agreement"]
        == pytest.approx(358 / 360, abs=1.5 / 360)
    )
    assert results["hashes"]["real_train"] == pixels_sha256(TRAIN.pixels)
    assert results["hashes"]["real_held_out"] == pixels_sha256(HELD_OUT.pixels)
    assert results["hashes"]["student"] == pixels_sha256(TRAIN.pixels[:300])
    assert (results["skipped"], results["warnings"]) == ({}, [])


def test_sampling_times(results: EvalResults) -> None:
    assert results["sampling"] == pytest.approx(
        {
            "student_ms_per_image": 2,
            "teacher_ms_per_image": 30,
            "speedup": 15,
            "student_evaluations": 1,
            "teacher_evaluations": 35,
            "batch_size": 64,
        }
    )
    assert sampling_times({}) is None


def test_reference_memorisation_needs_no_search(
    train: ImageSet, held_out: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RealImages.of(PROTOCOL, train, held_out)
    expected = memorisation(held_out.features.features, train.features.features, held_out.features.features)
    monkeypatch.setattr("distill.eval.run.evaluate.memorisation", None)
    assert real.describe()["memorised"] == expected.expected == 1437 / 1797


def test_what_cannot_be_had_is_said(train: ImageSet) -> None:
    bare = HELD_OUT.measured("images", 50, labelled=False)
    found = evaluate({"images": bare}, train, None, PROTOCOL)
    assert set(found["images"]) == {"fd_pixel", "precision", "recall"}
    assert found["skipped"] == {
        "label_agreement": "no labels came with: images",
        "held_out": "the data have no held-out images",
        "memorised": "the data have no held-out images",
    }
    assert found["warnings"] == [
        "images: 50 images span fewer than the 64 dimensions of the features: "
        "the Fréchet distance is biased upwards"
    ]
    lines = render(found).splitlines()
    assert "skipped: label_agreement: no labels came with: images" in lines
    assert f"warning: {found['warnings'][0]}" in lines
    unlabelled = evaluate({"images": bare}, TRAIN.measured(labelled=False), None, PROTOCOL)
    assert unlabelled["skipped"]["label_agreement"] == "the data have no labels"


def test_unequal_or_too_few_images_are_refused(train: ImageSet, held_out: ImageSet) -> None:
    made: dict[Role, ImageSet] = {
        "student": TRAIN.measured("student", 50),
        "teacher": TRAIN.measured("teacher", 60),
    }
    with pytest.raises(UserError, match=r"^sets of \[50, 60\] images; expected equally many"):
        evaluate(made, train, held_out, PROTOCOL)
    with pytest.raises(UserError, match=r"^student: 3 images; expected at least 4"):
        TRAIN.measured("student", 3)
    with pytest.raises(UserError, match=r"^real held-out images: 3 images; expected at least 4"):
        HELD_OUT.measured("real held-out images", 3)


def test_table(results: EvalResults) -> None:
    lines = render(results).splitlines()
    assert lines[0] == "fd-pixel: 300 images, seeds 7 to 306; real: 1437 training and 360 held-out images"
    assert lines[2].split() == ["student", "teacher", "360", "held-out"]
    assert lines[3].split() == ["vs", "train", "vs", "held-out"] * 3
    distances = lines[4].removeprefix("Fréchet distance (pixels)").split()
    sides = [side for role in ("student", "teacher") for side in (results[role], results[role]["held_out"])]
    assert distances == [
        *(f"{side['fd_pixel']:.4f}" for side in sides),
        f"{results['reference']['fd_pixel']:.4f}",
        "-",
    ]
    assert lines[9].split() == ["memorised", "1.000", "-", "0.000", "-", "0.800", "-"]
    assert len({len(line) for line in lines[3:10]}) == 1  # aligned
    assert "sampling: teacher 30 ms an image, 35 evaluations, batches of 64" in lines
    assert "sampling: the student is 15.0 times faster" in lines


def test_monitor_measures_the_protocols_distance() -> None:
    def measure(real: Any, images: Tensor) -> Mapping[str, float]:
        monitor = FrechetMonitor(real, read_protocol("fd-pixel"), load_extractor("pixels"), ALONE)
        return monitor.measure(monitor.features(images))

    made = from_bytes(HELD_OUT.pixels)
    expected = fd_by_scipy(HELD_OUT.pixels, TRAIN.pixels)
    assert measure(Digits().load("train"), made) == {"fd_pixel": pytest.approx(expected, rel=1e-6)}
    assert measure(from_bytes(TRAIN.pixels), made) == {"fd_pixel": pytest.approx(expected, rel=1e-6)}
    assert measure(made, made)["fd_pixel"] == pytest.approx(0, abs=1e-10)
    made[3] = float("inf")
    with pytest.raises(
        UserError, match=r"^generated images: 1 of 360 images have values that are not finite, first image 3$"
    ):
        measure(from_bytes(TRAIN.pixels), made)


def test_monitor_under_another_protocol_is_what_eval_fid_measures(tmp_path: Path) -> None:
    """Features of a network, resized images, and a file of statistics for a reference."""
    protocol, mean = (
        read_protocol("fd-effnet"),
        Function(lambda images: images.mean((2, 3)), "the mean colour"),
    )
    made, colours = (
        from_bytes(HELD_OUT.pixels),
        [mean(prepare(image, protocol)[None])["features"] for image in HELD_OUT.pixels],
    )
    real = Statistics(torch.zeros(3).double(), torch.eye(3).double(), None)
    monitor = FrechetMonitor(real, protocol, mean, ALONE)
    assert monitor.measure(monitor.features(made)) == {
        "fd_effnet": pytest.approx(frechet_distance(Statistics.of(torch.cat(colours)), real), rel=1e-9)
    }

    config = read_config(Path("configs/digits/sid.yaml"), ["--monitor_reference", str(tmp_path / "real.npz")])
    np.savez(tmp_path / "real.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = build_monitor(config, ALONE)
    assert found is not None
    identity = Statistics(torch.zeros(64).double(), torch.eye(64).double(), None)
    expected = frechet_distance(Statistics.of(pixels(HELD_OUT.pixels)), identity)
    assert found.measure(found.features(made)) == {"fd_pixel": pytest.approx(expected, rel=1e-9)}
    with pytest.raises(
        UserError, match=r"^monitor_protocol: fd-pixl: is not in eval/protocols; did you mean 'fd-pixel'\?$"
    ):
        build_monitor(read_config(Path("configs/digits/sid.yaml"), ["--monitor_protocol", "fd-pixl"]), ALONE)


def test_no_monitor_without_measurements() -> None:
    config = read_config(Path("configs/digits/sid.yaml"), ["--monitor_every", "null"])
    assert build_monitor(config, ALONE) is None


def test_grids_have_a_column_for_each_label(tmp_path: Path) -> None:
    chosen = by_label(TRAIN.labels, len(TRAIN.pixels), 10, 100)
    assert TRAIN.labels[chosen].tolist() == [i % 10 for i in range(100)]
    assert len(set(chosen)) == 100
    layout = save_grids(tmp_path / "eval", TRAIN.pixels[chosen], {"student": HELD_OUT.pixels}, 10)
    assert layout == "a column for each of the labels 0 to 9"
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["real.png", "student.png"]
    grid = np.asarray(Image.open(tmp_path / "eval" / "real.png"))
    assert grid.shape == (4 * 91, 4 * 91)  # 10 images of 8 pixels and 11 gaps of one, enlarged 4 times
    first = np.asarray(TRAIN.pixels[chosen[11], 0])
    assert np.array_equal(grid[4 * 10 : 4 * 18 : 4, 4 * 10 : 4 * 18 : 4], first)


def test_a_label_without_real_images_leaves_its_cells_white() -> None:
    chosen = by_label(torch.tensor([0, 2, 2]), 3, 3, 6)
    assert chosen == [0, None, 1, 0, None, 2]
    images = [torch.full((1, 2, 2), value, dtype=torch.uint8) for value in (1, 2, 1, 3)]
    assert fill(images, chosen)[:, 0, 0, 0].tolist() == [1, 255, 2, 1, 255, 3]


def test_stored_features_are_those_that_were_computed(tmp_path: Path) -> None:
    stream = byte_images(TRAIN.pixels[:40], TRAIN.labels[:40], 10)
    computed, stored, read = (
        measure_images(stream, "real", PROTOCOL, load_extractor("pixels"), keep=5, store=store)
        for store in (None, tmp_path, tmp_path)
    )
    assert list(tmp_path.rglob("*.safetensors"))
    for other in (stored, read):
        assert torch.equal(other.features.features, computed.features.features)
        assert torch.equal(other.first, computed.first)
        assert other.sha256 == computed.sha256
