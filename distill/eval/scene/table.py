"""The results of `python -m eval scene` as text for the terminal."""

from __future__ import annotations

from distill.eval.results.text_table import align
from distill.eval.scene.results import KnownSceneResults, SceneResults


def render(results: SceneResults) -> str:
    """Return the results as text: scores, particles, known scenes, diversity, and what was skipped."""
    height, width = results["size"]
    particles = _counted(results["particles"], "particle")
    views = _counted(results["views"], "held-out view")
    lines = [f"{results['of']}: {particles}, {views} of {height}x{width} pixels"]
    lines += _scores(results) + _particles(results)
    if "known_scenes" in results:
        lines += _known_scenes(results["known_scenes"])
    lines += ["", *_notes(results)]
    return "\n".join(lines).rstrip()


def _scores(results: SceneResults) -> list[str]:
    """Return a row for each score: mean and R-precision."""
    if "scores" not in results or "prompts" not in results:
        return []
    prompts = results["prompts"]
    cells = [["", "mean"]]
    if prompts["distractors"]:
        cells[0] += ["R-precision of renders", "of particles"]
    for score in results["scores"].values():
        row = [score["title"], f"{score['mean']:.4f}"]
        if "r_precision" in score:
            row += [f"{score['r_precision'][of]:.1%}" for of in ("renders", "particles")]
        cells.append(row)
    title = f"prompt: {prompts['prompt']}"
    if prompts["distractors"]:
        title += f"; R-precision among {_counted(1 + prompts['distractors'], 'prompt')}"
    return ["", title, *align(cells)]


def _particles(results: SceneResults) -> list[str]:
    """Return a row for each particle: its scores, and the scene that it shows."""
    columns: dict[str, list[str]] = {}
    for score in results.get("scores", {}).values():
        columns[score["title"]] = [f"{value:.4f}" for value in score["by_particle"]]
    if "known_scenes" in results:
        columns["nearest scene"] = results["known_scenes"]["nearest"]
        columns["PSNR (dB)"] = [f"{value:.2f}" for value in results["known_scenes"]["nearest_psnr"]]
    if not columns:
        return []
    rows = [[str(number), *cells] for number, cells in enumerate(zip(*columns.values(), strict=True))]
    return ["", *align([["particle", *columns], *rows])]


def _known_scenes(known: KnownSceneResults) -> list[str]:
    """Return a row for each known scene: its mass, the best PSNR, and whether it was found."""
    cells = [["known scene", "mass", "best PSNR (dB)", "found"]]
    for place, name in enumerate(known["names"]):
        best = max(row[place] for row in known["psnr"])
        found = "yes" if name in known["found"] else "no"
        cells.append([name, f"{known['mass'][name]:.1%}", f"{best:.2f}", found])
    count = f"{len(known['found'])} of {len(known['names'])} scenes found"
    return ["", *align(cells), f"{count}: nearest to a particle, with more than {known['found_psnr']:g} dB"]


def _notes(results: SceneResults) -> list[str]:
    """Return the line on diversity, and the reasons for what was skipped."""
    lines = []
    if "diversity" in results:
        one = results["diversity"]
        lines.append(
            f"diversity of particles: mean distance {one['distance']:.4f} ({one['features']}, "
            f"{one['protocol']}), mean PSNR {one['psnr']:.2f} dB; equal particles have 0 and 100 dB"
        )
    return lines + [f"skipped: {part}: {reason}" for part, reason in results["skipped"].items()]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
