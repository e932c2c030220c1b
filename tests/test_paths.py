"""Pages that lead from data, or from a pipeline, to a student: their files and commands, run as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_pipelines

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
BLOCK = re.compile(
    r"(?:^`(?P<name>[\w.]+)`.*?\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
SHORTER = {
    r"\bsteps: \d{4,}": "steps: 2",
    r"batch_size: \d+": "batch_size: 4",
    r"monitor_every: \d+": "monitor_every: 2\nmonitor_images: 16",
    r"_every: \d+": "_every: 2",
    r"warmup_steps: \d+": "warmup_steps: 0",
    r"width: 96": "width: 8",
    r"rank: 64": "rank: 2",
}
"""What a page's configurations say, and what the test says instead, so that they end in seconds."""


def run_page(page: str, folder: Path, shorter_commands: Mapping[str, str]) -> None:
    """Write the configurations of a page into a folder, and run its commands and Python there, in order."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        content = block["text"]
        if block["kind"] == "yaml":
            for pattern, replacement in SHORTER.items():
                content = re.sub(pattern, replacement, content)
            (folder / block["name"]).write_text(content)
        elif block["kind"] == "sh":
            for line in content.splitlines():
                program, *words = shlex.split(line + shorter_commands.get(line, ""))
                assert program == "distill"
                run([sys.executable, "-m", "distill", *words], folder, environment)
        elif block["kind"] == "python":
            run([sys.executable, "-c", content], folder, environment)


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, (
        f"{' '.join(command[2:])}\n{result.stdout[-1000:]}\n{result.stderr[-2000:]}"
    )


def test_from_a_folder_of_pictures_to_an_exported_student(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place in range(16):
        path = tmp_path / "pictures" / ("cats", "dogs")[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (40 + place, 36, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(path)
    run_page(
        "own_data.md",
        tmp_path,
        {
            "distill eval --run runs/student": " --n 16",
            "distill eval fid --run runs/student --protocol fd-effnet --out fid.json": " --n 8",
        },
    )
    assert len(list((tmp_path / "teacher-samples").glob("*.png"))) > 64
    assert len(list((tmp_path / "student-samples").glob("*.png"))) > 64
    assert (tmp_path / "fid.json").exists()
    assert (tmp_path / "runs" / "student" / "report.html").exists()
    assert (tmp_path / "student" / "model_index.json").exists()


def test_from_a_pipeline_to_adapters_in_plain_diffusers(tmp_path: Path) -> None:
    tiny_pipelines.stable_diffusion(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a red square\na blue circle\na cat in a hat\n")
    run_page("own_pipeline.md", tmp_path, {})
    assert (tmp_path / "runs/student/export/pytorch_lora_weights.safetensors").exists()
    assert len(list((tmp_path / "samples").glob("*.png"))) > 8
    assert (tmp_path / "cat.png").exists()
