"""Pages of `python -m eval report`: written, and read back."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distill.config.errors import UserError
from distill.eval.__main__ import main


def page_of(folder: Path, *arguments: object) -> str:
    out = folder / "page.html"
    main(["report", *map(str, arguments), "--out", str(out)])
    return out.read_text(encoding="utf-8")


def rows_of(page: str) -> dict[str, list[str]]:
    """Return the cells of all table rows by the rows' names; later rows of one name follow earlier ones."""
    found: dict[str, list[str]] = {}
    for name, cells in re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', page):
        found.setdefault(name, []).extend(re.findall("<td>(.*?)</td>", cells))
    return found


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" class="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def small_copies(page: str) -> list[Image.Image]:
    return [decode(uri) for uri in re.findall(r'<img[^>]* src="(data:[^"]*)"', page)]


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def refusal(folder: Path, *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        page_of(folder, *arguments)
    assert not (folder / "page.html").exists()
    return str(caught.value)
