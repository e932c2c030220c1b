"""The stages of benchmarks/emoji.py, and the files that it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import emoji, emoji_results
from distill.training.config import read_config


@pytest.mark.parametrize("name", [name for name, stage in emoji.STAGES.items() if stage.command is None])
def test_a_stage_has_a_preset_of_its_name(name: str) -> None:
    config = read_config(emoji.ROOT / "configs" / "emoji" / f"{name}.yaml")
    assert config.run_dir == Path("runs/emoji") / name


def test_stages_come_after_those_that_they_need() -> None:
    names = list(emoji.STAGES)
    for name, stage in emoji.STAGES.items():
        assert all(names.index(needed) < names.index(name) for needed in stage.needs)


def test_a_kept_pipeline_has_denoiser_and_autoencoder_in_float16(tmp_path: Path) -> None:
    weights = {"weight": torch.tensor([1.0, 1 / 3]), "steps": torch.tensor([7])}
    for folder in ("unet", "vae", "text_encoder"):
        (tmp_path / "export" / folder).mkdir(parents=True)
        save_file(weights, tmp_path / "export" / folder / "model.safetensors", {"format": "pt"})
    (tmp_path / "assets").mkdir()
    emoji.keep(tmp_path / "export", tmp_path / "assets" / "kept", is_half=True)
    for folder, dtype in (("unet", torch.float16), ("vae", torch.float16), ("text_encoder", torch.float32)):
        kept = load_file(tmp_path / "assets" / "kept" / folder / "model.safetensors")
        assert torch.equal(kept["weight"], weights["weight"].to(dtype))
        assert torch.equal(kept["steps"], weights["steps"])
    assert [path.name for path in (tmp_path / "assets").iterdir()] == ["kept"]


def test_a_kept_run_has_its_statistics_and_no_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoints/step-1/state.json", "stats.jsonl", "eval.json"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("{}\n")
    (tmp_path / "run" / "export" / "unet").mkdir(parents=True)
    save_file({"weight": torch.ones(2)}, tmp_path / "run" / "export" / "unet" / "model.safetensors")
    (tmp_path / "assets").mkdir()
    emoji.keep(tmp_path / "run", tmp_path / "assets" / "kept", is_half=True)
    kept = tmp_path / "assets" / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["export", "stats.jsonl"]
    assert load_file(kept / "export" / "unet" / "model.safetensors")["weight"].dtype == torch.float16


def test_a_table_has_ratios_to_a_teacher_of_as_many_images_and_names_what_was_not_run() -> None:
    metrics = {"precision": 0.9, "recall": 0.8, "diversity": 0.7, "memorised": 0.6, "n": 10_000}
    rows = [
        {"name": "teacher", "seed": 0, "evaluations": 35, "fd_effnet": 2.0, "fd_pixel": 8.0, **metrics},
        {"name": "dmd2", "seed": 0, "evaluations": 1, "fd_effnet": 3.0, "fd_pixel": 4.0, **metrics},
        {"name": "dmd2", "seed": 1, "evaluations": 1, "fd_effnet": 4.0, "fd_pixel": 8.0, **metrics},
    ]
    rows.append({**rows[2], "name": "f_distill", "n": 3_000})
    more = {"fd_pixel": "fd-pixel"}
    lines = emoji_results.table(rows, ("teacher", "dmd2", "sida", "f_distill"), more).splitlines()
    assert (
        lines[2]
        == "| `teacher` | 35 | 10 000 | 2.000 | 1.00 | 0.900 | 0.800 | 0.700 | 0.600 | 8.000 | 1.00 | 1 |"
    )
    assert lines[3].startswith("| `dmd2` | 1 | 10 000 | 3.500 ± 0.707 | 1.75 ± 0.35 | 0.900 ± 0.000 |")
    assert lines[3].endswith("| 6.000 ± 2.828 | 0.75 ± 0.35 | 2 |")
    assert lines[4].startswith("| `sida` | not run |")
    assert lines[5].startswith("| `f_distill` | 1 | 3 000 | 4.000 | | 0.900 |")
