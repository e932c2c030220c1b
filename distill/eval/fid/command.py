"""`python -m eval fid`: Fréchet distances, and statistics that go with them, under named protocols."""

from __future__ import annotations

from distill.eval.fid.arguments import FidOptions, name_of
from distill.eval.fid.measurement import Measurement, measure_together
from distill.eval.fid.results import FidResults
from distill.eval.fid.sets.results import FidSetResults, join_results
from distill.eval.fid.sets.table import render_set
from distill.eval.fid.subjects import Subject, open_streams
from distill.eval.fid.table import render
from distill.eval.protocols import default_protocol, read_protocols
from distill.eval.results.file import check_out, write_results
from distill.eval.results.tracked import track_distances
from distill.eval.results.tracking import log_results, step_of_run


def run(options: FidOptions) -> FidResults | FidSetResults | None:
    """Extract features, measure, print and, with `--out`, write.

    Processes other than the main one return None. Several protocols give a set of results.
    """
    if options.out is not None:
        check_out(options.out)
    subject = Subject(options)
    protocols = read_protocols(options.protocol or default_protocol(subject.shape).name)
    streams = open_streams(subject, protocols)
    measurements = Measurement.open_all(
        options, protocols, options.bootstrap, options.per_label, options.held_out, find_held_out=True
    )
    results = measure_together(measurements, streams)
    if results is None:
        return None
    content: FidResults | FidSetResults
    if len(results) == 1:
        content = results[0]
        print(render(content))
    else:
        content = join_results(results)
        print(render_set(content))
    if options.out is not None:
        write_results(options.out, content)
        print(f"\n{options.out} is written")
    log_results(options.tracking, track_distances(results, name_of(options), step_of_run(options.run)))
    return content
