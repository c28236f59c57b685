"""What the benchmarks of the worker compare does the same work on both sides."""

from time import perf_counter

from beam_jobs.query import run_query
from benchmarks.archive import toy_archive
from benchmarks.beam_cost import Size, costs


def test_the_plain_loop_writes_the_same_rows_as_the_pipeline() -> None:
    size = Size(studies=1, clips=2, frames_per_clip=3, rounds=1)
    with toy_archive(clips=size.clips, frames_per_clip=size.frames_per_clip) as archive:
        costs(archive, size, perf_counter)
        results = archive.settings.results
        of_both = run_query("SELECT count(DISTINCT study_key), count(*) FROM frames", results)
        alike = run_query(
            "SELECT count(*) FROM (SELECT DISTINCT * EXCLUDE (study_key, bucket) FROM frames)", results
        )
    studies = 2 * (size.rounds + 1)
    assert of_both.rows == ((studies, studies * size.frames),)
    assert alike.rows == ((size.frames,),)
