"""`python -m eval fid`: Fréchet distances, and statistics that go with them, under a named protocol."""

from __future__ import annotations

from pathlib import Path

from distill.eval.fid.arguments import FidOptions
from distill.eval.fid.measurement import Measurement
from distill.eval.fid.results import FidResults
from distill.eval.fid.subjects import open_streams, shape_of
from distill.eval.fid.table import render
from distill.eval.protocols import default_protocol, read_protocol
from distill.eval.results.file import check_out, write_results
from distill.eval.results.tracked import track_distances
from distill.eval.results.tracking import log_results, step_of_run


def run(options: FidOptions) -> FidResults | None:
    """Extract features, measure, print and, with `--out`, write.

    Processes other than the main one return None.
    """
    if options.out is not None:
        check_out(options.out)
    protocol = options.protocol or default_protocol(shape_of(options)).name
    streams = open_streams(options, read_protocol(protocol))
    measurement = Measurement.open(options, protocol, options.bootstrap, options.per_label)
    results = measurement.of(streams)
    if results is not None:
        print(render(results))
        if options.out is not None:
            write_results(options.out, results)
            print(f"\n{options.out} is written")
        log_results(options.tracking, track_distances(results, name_of(options), step_of_run(options.run)))
    return results


def name_of(options: FidOptions) -> str:
    """Return the name of what is measured, the last part of its path."""
    measured = options.run or options.teacher or options.pipeline or options.images or options.array
    return Path(str(measured)).name
