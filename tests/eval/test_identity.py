"""A stored feature belongs to everything that decides it: whatever of that changes, it is extracted anew."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import distill
from distill.eval.features import Function
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import SHARD, extract
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.processes import Processes
from distill.eval.images.streams import FileImages, ImageStream, NetworkImages
from distill.eval.protocols import read_protocol
from distill.networks.identity import describe_images_of
from tests.helpers import tiny_pipelines
from tests.helpers.random_teacher import save_random_teacher

PIXEL = read_protocol("fd-pixel")


def take(stream: ImageStream, root: Path, processes: Processes | None = None) -> Features:
    return extract(
        stream, PIXEL, Function(lambda images: images.double().flatten(1), "pixels"), root, processes
    )


def edited(file: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_another_setting_of_a_teacher_is_another_network(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    before = NetworkImages(distill.load_teacher(tmp_path / "teacher").eval(), 8).describe()
    edited(tmp_path / "teacher" / "config.json", lambda content: content["network"].update(sigma_data=0.7))
    after = NetworkImages(distill.load_teacher(tmp_path / "teacher").eval(), 8).describe()
    assert before != after
    assert before == NetworkImages(distill.load_teacher(save_again(tmp_path)).eval(), 8).describe()


def save_again(tmp_path: Path) -> Path:
    """The teacher as it was, in another folder."""
    save_random_teacher(tmp_path / "again")
    return tmp_path / "again"


def other_weights(folder: Path, part: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


CHANGES = {
    "the autoencoder's weights": lambda folder: other_weights(folder, "vae"),
    "the text encoder's weights": lambda folder: other_weights(folder, "text_encoder"),
    "the scale of the latents": lambda folder: edited(
        folder / "vae" / "config.json", lambda c: c.update(scaling_factor=0.3)
    ),
    "what the network predicts": lambda folder: edited(
        folder / "scheduler" / "scheduler_config.json", lambda c: c.update(prediction_type="v_prediction")
    ),
    "the noise schedule": lambda folder: edited(
        folder / "scheduler" / "scheduler_config.json", lambda c: c.update(beta_end=0.03)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_part_of_a_pipeline_is_another_pipeline(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    from distill.networks.diffusers.opening.folders import open_pipeline
    from distill.teachers.diffusers import Settings

    def identities(folder: Path) -> tuple[object, str]:
        teacher = Settings(path=str(folder), resolution=16).load()
        return describe_images_of(teacher), PipelineImages(
            open_pipeline(str(folder), "x"), 4, 0, ["a cat"]
        ).describe()["parts_sha256"]

    folder = tiny_pipelines.stable_diffusion(tmp_path / "pipe")
    before = identities(folder)
    assert identities(folder) == before
    change(folder)
    after = identities(folder)
    assert before[0] != after[0]
    assert before[1] != after[1]


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for row in range(count):
        Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(
            folder / f"{row:04d}.bmp"
        )  # bitmaps of one size are of one length
    return folder


def test_a_file_that_was_replaced_in_secret_is_seen(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", 3)
    before = take(FileImages(folder), tmp_path / "store").features
    file = folder / "0001.bmp"
    stat = file.stat()
    pictures(tmp_path / "other", 3, seed=1)
    file.write_bytes((tmp_path / "other" / "0001.bmp").read_bytes())
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    after = take(FileImages(folder), tmp_path / "store").features
    assert [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_an_archive_that_was_replaced_in_secret_is_seen(tmp_path: Path) -> None:
    def pack(seed: int) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for file in sorted(pictures(tmp_path / f"images{seed}", 3, seed).iterdir()):
                archive.write(file, file.name)

    pack(0)
    before, stat = (
        take(FileImages(tmp_path / "x.zip"), tmp_path / "store").features,
        (tmp_path / "x.zip").stat(),
    )
    pack(1)
    os.utime(tmp_path / "x.zip", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (tmp_path / "x.zip").stat().st_size == stat.st_size
    assert not torch.equal(before, take(FileImages(tmp_path / "x.zip"), tmp_path / "store").features)


def test_a_damaged_shard_is_extracted_anew_and_said(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", SHARD + 3)
    before = take(FileImages(folder), tmp_path / "store")
    assert before.notes == []
    shard = sorted((tmp_path / "store").rglob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-9] ^= 0x40
    shard.write_bytes(content)
    after = take(FileImages(folder), tmp_path / "store")
    assert torch.equal(before.features, after.features)
    assert after.notes == [f"{folder}: 1 damaged shards of features were extracted anew, first {shard.name}"]
    assert take(FileImages(folder), tmp_path / "store").notes == []


def test_a_process_that_is_stopped_loses_no_more_than_a_shard(tmp_path: Path) -> None:
    folder, seen = pictures(tmp_path / "images", 4 * SHARD), []

    def stop_late(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if sum(seen) > 3 * SHARD:
            raise KeyboardInterrupt
        return images.double().flatten(1)

    with pytest.raises(KeyboardInterrupt):
        extract(FileImages(folder), PIXEL, Function(stop_late, "pixels"), tmp_path / "store")
    again: list[int] = []

    def count(images: torch.Tensor) -> torch.Tensor:
        again.append(len(images))
        return images.double().flatten(1)

    extract(FileImages(folder), PIXEL, Function(count, "pixels"), tmp_path / "store")
    assert sum(again) == SHARD


def test_a_thousand_images_are_work_for_every_one_of_eight_processes() -> None:
    shards = range(0, 1000, SHARD)
    shares = [len(Processes(number, 8).share(shards)) for number in range(8)]
    assert min(shares) >= 3
    assert max(shares) - min(shares) <= 1
