"""Names and numbers of results in experiment trackers. The names never change: charts are built on them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distill.eval.composition.result_types import CompositionResults
from distill.eval.fid.diversity.results import DiversityResults
from distill.eval.fid.results import FidResults, Summary, SweepResults
from distill.eval.preference.result_types import Results
from distill.eval.results.tracking import Tracked
from distill.eval.run.results import ROLES, EvalResults, LaboratoryResults
from distill.eval.scene.results import SceneResults
from distill.publishing.report.results import results_of
from distill.publishing.run_record import numbers

GRIDS = "eval"
"""Folder of the grids that `python -m eval --run` writes beside eval.json."""


def track_evaluation(
    results: EvalResults | LaboratoryResults, name: str, step: int, out: Path | None
) -> Tracked:
    """Name the numbers of eval.json `eval/ROLE/NUMBER`, and its grids `eval/grid/ROLE`."""
    content = cast(Mapping[str, Any], results)
    found = {
        f"eval/{role}/{key}": value for role in ROLES for key, value in results_of(content, role).items()
    }
    found |= {f"eval/sampling/{key}": value for key, value in _shared(content.get("sampling")).items()}
    images = {} if out is None else {path.stem: path for path in sorted((out / GRIDS).glob("*.png"))}
    facts = _select(content, "protocol", "n", "seed", "features", "hashes")
    return Tracked(
        "eval", name, {step: found}, facts, {f"eval/grid/{role}": path for role, path in images.items()}
    )


def track_distances(results: Sequence[FidResults], name: str, step: int) -> Tracked:
    """Name the numbers of `fid` `fid/PROTOCOL/NUMBER`, means over repetitions, with `_std` and `_min`."""
    found: dict[str, float] = {}
    for one in results:
        found |= _spreads(f"fid/{one['protocol']}", one["summary"], len(one["repetitions"]) > 1)
    facts = {one["protocol"]: _facts_of_distances(one) for one in results}
    return Tracked("fid", name, {step: found}, facts if len(facts) > 1 else _facts_of_distances(results[0]))


def track_sweep(content: SweepResults, name: str) -> Tracked:
    """Name the numbers of checkpoints `sweep/PROTOCOL/NUMBER`, of the best one `sweep/PROTOCOL/best/NUMBER`.

    The step is the checkpoint's; the best one's numbers come with the last step.
    """
    prefix = f"sweep/{content['protocol']}"
    found = {int(step): _spreads(prefix, summary, False) for step, summary in content["checkpoints"].items()}
    best = content.get("best")
    if best is not None:
        last = found[max(found)]
        last |= _spreads(f"{prefix}/best", best["results"]["summary"], True)
        last[f"{prefix}/best/step"] = best["step"]
    facts = {key: value for key, value in content.items() if key not in ("checkpoints", "best")}
    return Tracked("sweep", name, found, facts)


def track_preference(results: Results, name: str, step: int, out: Path | None) -> Tracked:
    """Name the numbers of `preference` `preference/SCORE/NUMBER`, and its sheets `preference/SCORE/sheet`."""
    found: dict[str, float] = {}
    images: dict[str, Path] = {}
    for score, entry in results["scores"].items():
        prefix = f"preference/{score}"
        found |= {f"{prefix}/{key}": value for key, value in numbers(entry).items()}
        found |= {f"{prefix}/against/{key}": value for key, value in numbers(entry.get("against")).items()}
        for category, measured in entry["by_category"].items():
            found[f"{prefix}/category/{category}"] = measured["mean"]
        if out is not None and "sheet" in entry:
            images[f"{prefix}/sheet"] = out.with_name(entry["sheet"])
    content = cast(Mapping[str, Any], results)
    prompts = _select(content["prompts"], "set", "of", "count", "sha256", "departures")
    weights = {score: entry["weights_sha256"] for score, entry in results["scores"].items()}
    subjects = {
        key: {name: value for name, value in content[key].items() if name != "files"}
        for key in ("subject", "against")
        if key in content
    }
    facts = {"prompts": prompts, "per_prompt": results["per_prompt"], "weights_sha256": weights, **subjects}
    return Tracked("preference", name, {step: found}, facts | _select(content, "commit", "machine"), images)


def track_diversity(results: DiversityResults, name: str, step: int) -> Tracked:
    """Name the means of `diversity` `diversity/PROTOCOL/STATISTIC`."""
    prefix = f"diversity/{results['protocol']}"
    found = {f"{prefix}/{key}": statistic["mean"] for key, statistic in results["statistics"].items()}
    content = cast(Mapping[str, Any], results)
    facts = _select(content, "source", "n", "first_seed", "kind", "images", "weights_sha256", "commit")
    return Tracked("diversity", name, {step: found}, facts)


def track_composition(results: CompositionResults, name: str, step: int, out: Path | None) -> Tracked:
    """Name the measures of `geneval`, `dpg` and `text` `BENCHMARK/MEASURE`, the sheet `BENCHMARK/sheet`."""
    benchmark = results["benchmark"]
    found = {f"{benchmark}/{key}": measure["value"] for key, measure in results["measures"].items()}
    images = {}
    if out is not None and "sheet" in results:
        images[f"{benchmark}/sheet"] = out.with_name(results["sheet"])
    content = cast(Mapping[str, Any], results)
    facts = _select(content, "asked_sha256", "examiner", "per_prompt", "commit", "machine")
    return Tracked(benchmark, name, {step: found}, facts, images)


def track_scene(results: SceneResults, name: str, step: int) -> Tracked:
    """Name the numbers of `scene` `scene/SCORE/NUMBER`, and of its other parts `scene/PART/NUMBER`."""
    found: dict[str, float] = {}
    for score, entry in results.get("scores", {}).items():
        found[f"scene/{score}/mean"] = entry["mean"]
        precision = numbers(entry.get("r_precision"))
        found |= {f"scene/{score}/r_precision/{of}": share for of, share in precision.items()}
    diversity = numbers(results.get("diversity"))
    found |= {f"scene/diversity/{key}": value for key, value in diversity.items()}
    if "known_scenes" in results:
        known = results["known_scenes"]
        found["scene/known_scenes/found"] = len(known["found"])
        found["scene/known_scenes/nearest_psnr"] = statistics.fmean(known["nearest_psnr"])
        found |= {f"scene/known_scenes/mass/{scene}": share for scene, share in known["mass"].items()}
    content = cast(Mapping[str, Any], results)
    facts = _select(content, "particles", "views", "size", "prompts", "weights_sha256", "commit", "machine")
    return Tracked("scene", name, {step: found}, facts)


def _spreads(prefix: str, summary: Summary, is_repeated: bool) -> dict[str, float]:
    """Name means; of repetitions the standard deviation and the minimum too."""
    found: dict[str, float] = {}
    for key, spread in summary.items():
        found[f"{prefix}/{key}"] = spread["mean"]
        if is_repeated:
            found[f"{prefix}/{key}_std"] = spread["std"]
            found[f"{prefix}/{key}_min"] = spread["min"]
    return found


def _facts_of_distances(results: FidResults) -> dict[str, Any]:
    return _select(
        cast(Mapping[str, Any], results),
        *("protocol", "metric", "source", "n", "first_seeds", "departures", "reference"),
        *("preprocessing_sha256", "weights_sha256", "warnings", "commit", "machine"),
    )


def _shared(sampling: object) -> dict[str, float]:
    """Return the times that belong to no role alone."""
    found = numbers(sampling)
    return {
        key: value for key, value in found.items() if not key.startswith(tuple(f"{role}_" for role in ROLES))
    }


def _select(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: content[key] for key in keys if key in content}
