"""The list of pipelines that can be distilled is complete, and agrees with what opens."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from benchmarks.models import family_of, passed_checks
from distill.config.errors import UserError
from distill.networks.diffusers.families import FAMILIES
from distill.networks.diffusers.served import REFUSED, SERVED, check_served
from distill.publishing.models import CHECKS, TESTED, main
from distill.storage.files import read_json


def test_every_text_to_image_pipeline_of_diffusers_is_served_or_refused() -> None:
    known = {kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    assert known <= {*SERVED, *REFUSED}
    assert not SERVED.keys() & REFUSED.keys()
    assert {*SERVED, *REFUSED} <= set(dir(diffusers))


def test_adapters_are_loaded_by_the_pipelines_that_say_so() -> None:
    for name, served in SERVED.items():
        if name != "KolorsPipeline":  # which needs a further package
            assert hasattr(getattr(diffusers, name), "save_lora_weights") == served.has_adapters, name


def test_every_family_has_a_pipeline() -> None:
    assert {served.denoiser for served in SERVED.values()} == set(FAMILIES)


def test_a_refused_pipeline_is_refused_with_its_reason() -> None:
    with pytest.raises(
        UserError, match="FluxKontextPipeline is controlled by another image; expected one of the"
    ):
        check_served("FluxKontextPipeline")


def test_the_command_prints_both_lists(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*SERVED, *REFUSED, *CHECKS))


def test_stored_checks_are_of_pipelines_that_are_served() -> None:
    stored = read_json(TESTED)
    assert stored.keys() <= SERVED.keys()
    assert {check for checks in stored.values() for check in checks} <= CHECKS.keys()


def test_a_check_passed_if_all_its_cases_did(tmp_path: Path) -> None:
    case = '<testcase name="test_an_export_is_a_pipeline_of_diffusers[{}]">{}</testcase>'
    cases = [
        case.format("flux-10000.0-1", ""),
        case.format("flux-10000.0-3", ""),
        case.format("flux-10000.0-8", "<failure/>"),
    ]
    results = tmp_path / "results.xml"
    results.write_text(f"<testsuite>{''.join(cases)}</testsuite>")
    assert passed_checks(results) == {"FluxPipeline": ["export"]}


def test_a_family_is_found_by_the_longest_name() -> None:
    assert family_of("flux-schnell-expanded_divergence") == "flux-schnell"
    assert family_of("4-sd15") == "sd15"
    assert family_of("nothing") is None
