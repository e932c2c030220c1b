"""Streams of images and the store of features: equal however extracted, and errors that lose nothing."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.sources.digits import Settings as Digits
from distill.diffusion.sampling import balanced_labels, seeded_noise
from distill.eval.features import Function
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import SHARD, extract
from distill.eval.images.streams import DataImages, FileImages, ImageStream, NetworkImages
from distill.eval.protocols import Protocol, read_protocol
from distill.types import Condition, Generator

PIXEL = read_protocol("fd-pixel")
EFFNET = read_protocol("fd-effnet")


class Summary(Function):
    """Features of any images: the mean of each channel and of the left half. Counts the images it saw."""

    def __init__(self) -> None:
        super().__init__(self.summarise, "summary")
        self.seen = 0

    def summarise(self, images: Tensor) -> Tensor:
        self.seen += int((images.flatten(1).abs().sum(1) > 0).sum())
        return torch.cat(
            [images.double().mean((2, 3)), images[..., : images.shape[3] // 2].double().mean((2, 3))], 1
        )


class Affine(Generator):
    """Noise as it is, and a label that shifts it; images of large noise may be broken."""

    image_shape = (1, 4, 4)
    label_count = 3

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor([0.0, 0.2, 0.4]))
        self.broken = broken

    def describe(self) -> dict[str, bool]:
        return {"broken": self.broken}

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        assert cond.label is not None
        x = 0.3 * z + self.shift[cond.label][:, None, None, None]
        return x.masked_fill((z[:, :1, :1, :1] > 2) & self.broken, float("nan"))


def save_images(folder: Path, count: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = random.integers(1, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels if mode == "RGB" else pixels[:, :, 0]).save(folder / f"{number:03d}.png")


def all_images(stream: ImageStream) -> list[Tensor]:
    found = list(stream.read(range(len(stream))))
    assert all(isinstance(image, Tensor) for image in found)
    return found  # type: ignore[return-value]


def take(
    stream: ImageStream, root: Path, protocol: Protocol = EFFNET, extractor: Function | None = None
) -> Features:
    return extract(stream, protocol, extractor or Summary(), root)


def test_folder_zip_and_tar_hold_the_same(tmp_path: Path) -> None:
    save_images(tmp_path / "folder", 20)
    files = sorted((tmp_path / "folder").iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, tarfile.open(tmp_path / "a.tar", "w") as tape:
        for file in files:
            archive.write(file, file.name)
            tape.add(file, file.name)
    found = [take(FileImages(tmp_path / name), tmp_path / "store") for name in ("folder", "a.zip", "a.tar")]
    assert len({features.images_sha256 for features in found}) == 1
    assert all(torch.equal(features.features, found[0].features) for features in found)
    assert torch.equal(
        all_images(FileImages(tmp_path / "folder"))[3].permute(1, 2, 0),
        torch.from_numpy(np.array(Image.open(files[3]))),
    )
    (tmp_path / "b.bin").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"b.bin: is neither a folder nor a .zip nor a .tar$"):
        FileImages(tmp_path / "b.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"empty: holds no image; expected files ending in .apng, .avif, .bmp"
    ):
        FileImages(tmp_path / "empty")
    with pytest.raises(
        UserError, match=r"nowhere: cannot be read \(No such file or directory\); expected a folder"
    ):
        FileImages(tmp_path / "nowhere")


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    save_images(tmp_path / "images" / "cat", 2)
    save_images(tmp_path / "images" / "dog", 3)
    labels = take(FileImages(tmp_path / "images"), tmp_path / "store").labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1, 1]


def test_shards_of_webdataset_with_labels(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 5)
    (tmp_path / "shards").mkdir()
    for shard, numbers in {"b.tar": (3, 4), "a.tar": (0, 1, 2)}.items():
        with tarfile.open(tmp_path / "shards" / shard, "w") as tape:
            for number in numbers:
                tape.add(tmp_path / "images" / f"{number:03d}.png", f"{number:03d}.png")
                member = tarfile.TarInfo(f"{number:03d}.cls")
                member.size = 1
                tape.addfile(member, io.BytesIO(str(number % 2).encode()))
    shards = take(FileImages(tmp_path / "shards"), tmp_path / "store")
    assert torch.equal(shards.features, take(FileImages(tmp_path / "images"), tmp_path / "store").features)
    assert FileImages(tmp_path / "shards").name(3) == "b.tar:003.png"
    assert shards.labels is not None
    assert shards.labels.tolist() == [0, 1, 0, 1, 0]
    (tmp_path / "shards" / "c.tar").write_bytes(b"broken" * 200)
    with pytest.raises(UserError, match=r"shards: is neither a folder nor a .zip nor a .tar$"):
        FileImages(tmp_path / "shards")


def test_labels_of_edm_and_of_sample_py(tmp_path: Path) -> None:
    save_images(tmp_path / "images" / "00", 3)
    index = tmp_path / "images" / "dataset.json"
    index.write_text('{"labels": [["00/000.png", 4], ["00/002.png", 1], ["00/001.png", 0]]}')
    stream = FileImages(tmp_path / "images")
    assert [stream.label(row) for row in range(3)] == [4, 0, 1]
    assert stream.label_count == 5
    index.write_text('{"labels": null}')
    assert FileImages(tmp_path / "images").label_count == 0
    index.write_text('{"labels": 3}')
    with pytest.raises(
        UserError, match=r"dataset.json: is not EDM's; expected 'labels' of pairs of a file and a number$"
    ):
        FileImages(tmp_path / "images")
    (tmp_path / "images" / "samples.json").write_text('{"images": [{"file": "00/002.png", "label": 1}]}')
    stream = FileImages(tmp_path / "images")
    assert (stream.files.names, stream.label(0)) == (["00/002.png"], 1)
    (tmp_path / "images" / "samples.json").write_text('{"images": [{"file": "00/003.png", "label": 1}]}')
    with pytest.raises(UserError, match=r"images: holds no 00/003.png, which its samples.json lists$"):
        FileImages(tmp_path / "images")


def test_network_images_are_those_of_their_seeds_whatever_the_batch(tmp_path: Path) -> None:
    expected = (
        0.3 * seeded_noise(range(5, 305), (1, 4, 4))
        + Affine().shift[balanced_labels(300, 3).label][:, None, None, None]
    )
    found = {
        size: take(NetworkImages(Affine(), 300, 5, batch_size=size), tmp_path / str(size), PIXEL)
        for size in (1, 7, 64)
    }
    quantised = (expected * 127.5 + 128).clip(0, 255).to(torch.uint8).flatten(1)
    assert torch.equal(torch.stack(all_images(NetworkImages(Affine(), 300, 5))).flatten(1), quantised)
    assert found[1].labels is not None
    assert found[1].labels.tolist() == [row % 3 for row in range(300)]
    real = Statistics.of(200 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)).double())
    distances = [frechet_distance(Statistics.of(features.features), real) for features in found.values()]
    assert distances == pytest.approx([distances[0]] * 3, rel=1e-12)
    assert len({features.images_sha256 for features in found.values()}) == 1


def test_an_interrupted_extraction_continues_and_a_whole_one_is_read(tmp_path: Path) -> None:
    class Stopped(NetworkImages):
        def read(self, rows):  # type: ignore[no-untyped-def]
            if rows[0] >= SHARD:
                raise KeyboardInterrupt
            return super().read(rows)

    network, extractor = Affine(), Summary()
    with pytest.raises(KeyboardInterrupt):
        take(Stopped(network, SHARD + 40), tmp_path / "a", extractor=extractor)
    assert extractor.seen == SHARD
    resumed = take(NetworkImages(network, SHARD + 40), tmp_path / "a", extractor=extractor)
    assert extractor.seen == SHARD + 40
    assert torch.equal(resumed.features, take(NetworkImages(network, SHARD + 40), tmp_path / "b").features)
    again = take(NetworkImages(network, SHARD + 40), tmp_path / "a", extractor=extractor)
    assert extractor.seen == SHARD + 40
    assert torch.equal(again.features, resumed.features)
    fewer = take(NetworkImages(network, 30), tmp_path / "a", extractor=extractor)
    assert torch.equal(fewer.features, resumed.features[:30])
    assert extractor.seen == SHARD + 40
    take(NetworkImages(network, 30, first_seed=1), tmp_path / "a", extractor=extractor)
    with torch.no_grad():
        network.shift += 0.1
    take(NetworkImages(network, 30), tmp_path / "a", extractor=extractor)
    assert extractor.seen == SHARD + 100  # other seeds and other weights are other images


def test_one_bad_file_does_not_lose_the_other_features(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 40)
    (tmp_path / "images" / "017.png").write_bytes(b"broken")
    extractor = Summary()
    with pytest.raises(
        UserError,
        match=r"^1 of 40 images cannot be used: .*017.png: cannot be read as an image .*; "
        r"the features of the others are kept$",
    ):
        take(FileImages(tmp_path / "images"), tmp_path / "store", extractor=extractor)
    assert extractor.seen == 39
    Image.new("RGB", (10, 12), "red").save(tmp_path / "images" / "017.png")
    found = take(FileImages(tmp_path / "images"), tmp_path / "store", extractor=extractor)
    assert extractor.seen == 40
    assert len(found) == 40
    assert torch.equal(found.features, take(FileImages(tmp_path / "images"), tmp_path / "fresh").features)


def test_images_that_are_not_alike_are_refused_or_named(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 3)
    save_images(tmp_path / "images" / "z", 2, (8, 8), mode="L")
    stream = FileImages(tmp_path / "images")
    assert take(stream, tmp_path / "store").notes == [
        f"{tmp_path}/images: 2 of 5 images are grey and were read as colour, first z/000.png",
        f"{tmp_path}/images: images of 2 sizes",
    ]
    with pytest.raises(
        UserError,
        match=r"^2 of 5 images .*z/000.png is of \(1, 8, 8\); expected \(3, 12, 10\) as before, "
        r"edm-50k takes one size;",
    ):
        take(stream, tmp_path / "store", read_protocol("edm-50k"))
    Image.fromarray(np.zeros((12, 10), dtype=np.uint16)).save(tmp_path / "images" / "000.png")
    with pytest.raises(
        UserError,
        match=r"^1 of 5 images cannot be used: .*000.png: cannot be read as an image "
        r"\(mode I;16; expected 8 bits a channel\)",
    ):
        take(FileImages(tmp_path / "images"), tmp_path / "store")


def test_an_image_that_is_not_finite_is_named_by_its_seed(tmp_path: Path) -> None:
    broken = [row for row in range(200) if seeded_noise([row], (1, 4, 4))[0, 0, 0, 0] > 2]
    with pytest.raises(
        UserError,
        match=rf"^{len(broken)} of 200 images cannot be used: "
        rf"the student: the image of seed {broken[0]} has values that",
    ):
        take(NetworkImages(Affine(broken=True), 200), tmp_path, PIXEL)


def test_grey_photographs_are_colour_to_a_network(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 77, dtype=np.uint8)).save(tmp_path / "a.png")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (77, 77, 77)).save(buffer, "PNG")
    (tmp_path / "colour").mkdir()
    (tmp_path / "colour" / "a.png").write_bytes(buffer.getvalue())
    grey = take(
        DataImages(Digits().load("train"), "digits", {}), tmp_path / "store", EFFNET, Summary()
    ).features[0]
    assert torch.equal(grey[:3], grey[0].expand(3))
    found = take(FileImages(tmp_path / "colour"), tmp_path / "store")
    assert torch.equal(found.features[0], torch.full((6,), 77.0).double())
