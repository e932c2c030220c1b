"""Small images, and folders and archives of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image


def png(shade: int = 0, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> bytes:
    """Make a PNG of one shade; `RGB` is a shade of red."""
    content = io.BytesIO()
    colour = (shade, 0, 0) if mode == "RGB" else shade
    Image.new(mode, size, colour).save(content, format="PNG")
    return content.getvalue()


def write_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files into a folder, which is made if it is missing, and return the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_shards(folder: Path, files: dict[str, list[str]]) -> Path:
    """Write `.tar` files of images with these names into a folder, and return the folder."""
    folder.mkdir(exist_ok=True)
    for shard, names in files.items():
        with tarfile.open(folder / shard, "w") as shard_file:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(png())
                shard_file.addfile(info, io.BytesIO(png()))
    return folder
