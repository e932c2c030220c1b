"""Hooks of the documentation site; `make docs` builds all of it. The quickstart notebook runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def render(hooks: ModuleType, text: str, place: str = "methods.md") -> str:
    return hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=place)), None, None)


def test_formulas_become_mathml_and_code_stays(hooks: ModuleType) -> None:
    assert render(hooks, "`$x$` costs $5") == "`$x$` costs $5"
    inline = render(hooks, "with $x_0$ and")
    assert inline.startswith("with <span><math")
    assert "<msub><mi>x</mi><mn>0</mn></msub>" in inline
    block = render(hooks, "a\n\n```math\ng^2 = \\alpha^2\n```\n\n```sh\necho $HOME $PATH\n```\n")
    assert 'display="block"' in block
    assert "```sh\necho $HOME $PATH\n```" in block
    table = render(hooks, "| $p(x \\mid y)$ | $\\lvert x \\rvert$ |")
    assert table.count("|") == 3


def test_headings_are_named_as_on_github(hooks: ModuleType) -> None:
    text = render(hooks, "## Diff-Instruct\n\n## Diff-Instruct++\n\n## 7. (b) Score matching\n")
    names = [line.split("{ ")[1] for line in text.splitlines() if line]
    assert names == ["#diff-instruct }", "#diff-instruct-1 }", "#7-b-score-matching }"]


def test_links_stay_within_the_site(hooks: ModuleType) -> None:
    assert render(hooks, "[a](data.md#labels)") == "[a](data.md#labels)"
    assert render(hooks, "[a](../README.md#methods)") == "[a](index.md#methods)"
    assert render(hooks, "[`f`](../distill/divergences.py)") == "`f`"
    assert render(hooks, "[the script](../train.py)") == "the script (`train.py`)"
    assert render(hooks, "![a](../benchmarks/results/study_ring.png)") == "![a](pictures/study_ring.png)"
    assert render(hooks, "[a](methods.md)", "index.md") == "[a](methods.md)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("QUICKSTART_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "35 evaluations each" in printed
    assert (tmp_path / "run" / "eval.json").exists()
