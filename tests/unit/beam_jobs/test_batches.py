"""A batch's pipeline is built once, and still does with each batch what a new one would."""

from pathlib import Path

import apache_beam as beam
import pytest

from beam_jobs import batches as module
from beam_jobs.batches import BatchPipeline
from beam_jobs.records import StudyClaim
from beam_jobs.settings import DeidSettings, WorkerSettings

POISON = "poison"

built: list[str] = []
seen: list[str] = []
production = {"version": "1"}


class Registry:
    def __init__(self, root: Path) -> None:
        self._root = root

    def resolve(self, task: str) -> Path:
        return self._root / task / production["version"]


class ProcessStudies(beam.PTransform):
    def __init__(self, settings: WorkerSettings, deid: DeidSettings) -> None:
        super().__init__()

    def expand(self, claims: beam.PCollection) -> beam.PCollection:
        built.append(production["version"])
        return claims | "Process" >> beam.Map(process)


def process(claim: StudyClaim) -> StudyClaim:
    if claim.study_key == POISON:
        raise ValueError(POISON)
    return claim


def report(claim: StudyClaim) -> None:
    seen.append(claim.claim_token)


def claims(*tokens: str, study_key: str = "sound") -> list[StudyClaim]:
    return [StudyClaim(token, study_key, "subject", 1, ()) for token in tokens]


@pytest.fixture(autouse=True)
def _small_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Registry", Registry)
    monkeypatch.setattr(module, "ProcessStudies", ProcessStudies)
    monkeypatch.setattr(module, "report_study", report)
    built.clear()
    seen.clear()
    production["version"] = "1"


def pipeline(root: Path, *beam_options: str) -> BatchPipeline:
    return BatchPipeline(WorkerSettings(root=root, beam_options=list(beam_options)), DeidSettings(root=root))


def test_a_pipeline_is_built_once_and_each_batch_has_its_own_claims(tmp_path: Path) -> None:
    batches, others = pipeline(tmp_path), pipeline(tmp_path)
    batches.run(claims("a", "b"))
    others.run(claims("c"))
    batches.run(claims("d"))
    assert seen == ["a", "b", "c", "d"]
    assert built == ["1", "1"]


def test_it_is_built_anew_when_another_model_is_in_production(tmp_path: Path) -> None:
    batches = pipeline(tmp_path)
    for version in ("1", "2", "2", "1"):
        production["version"] = version
        batches.run(claims(version))
    assert built == ["1", "2", "1"]
    assert seen == ["1", "2", "2", "1"]


def test_after_a_batch_that_failed_the_next_goes_through(tmp_path: Path) -> None:
    batches = pipeline(tmp_path)
    with pytest.raises(ValueError, match=POISON):
        batches.run(claims("a", study_key=POISON))
    batches.run(claims("b"))
    assert seen == ["b"]
    assert module._at_hand == {}


def test_where_steps_may_run_elsewhere_each_batch_brings_its_claims(tmp_path: Path) -> None:
    batches = pipeline(tmp_path, "--direct_running_mode=multi_threading", "--direct_num_workers=2")
    batches.run(claims("a", "b"))
    batches.run(claims("c"))
    assert sorted(seen) == ["a", "b", "c"]
    assert built == ["1", "1"]
