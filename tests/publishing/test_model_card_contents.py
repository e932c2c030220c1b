"""Model cards show a grid of the student's images, and on the hub name no path of this machine."""

from __future__ import annotations

from pathlib import Path

from distill.publishing.model_card import write_card
from tests.helpers.exported import own_student, run_of


def test_a_card_shows_the_images_of_the_evaluation_or_else_the_last_of_training(tmp_path: Path) -> None:
    run = run_of(own_student("unet", tmp_path / "a"), tmp_path / "run", {"name": "native", "path": "teacher"})
    write_card(run / "export", run)
    assert "![" not in (run / "export" / "README.md").read_text()
    for place in ("samples/step-00000001.png", "samples/step-00000003.png", "eval/student.png"):
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).write_bytes(place.encode())
        write_card(run / "export", run)
        assert (run / "export" / "samples.png").read_bytes() == place.encode()
    card = (run / "export" / "README.md").read_text()
    assert card.index("![Images of the student](samples.png)") < card.index("## Use")


def test_a_card_on_the_hub_names_no_path_of_this_machine(tmp_path: Path) -> None:
    teacher = {"name": "native", "path": str(tmp_path / "a" / "teacher")}
    run = run_of(own_student("unet", tmp_path / "a"), tmp_path / "run", teacher)
    write_card(run / "export", run, "me/student")
    card = (run / "export" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "Distilled from `teacher` by" in card
    assert 'from_pretrained("me/student"' in card
    write_card(run / "export", run)
    assert f"Distilled from `{tmp_path}/a/teacher` by" in (run / "export" / "README.md").read_text()
