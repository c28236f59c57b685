"""The sentence of a night, and how far it says it is."""

from pathlib import Path

import apache_beam as beam
from apache_beam.portability.common_urns import resource_hints

from beam_jobs.nightly.pipeline import RetrainModel
from beam_jobs.nightly.progress import ProgressFile, read_progress
from echo_models.fitting import Step


def accelerators(hint: str) -> dict[str, str]:
    """Give the hint that a runner would see on each step of a night."""
    pipeline = beam.Pipeline()
    _ = pipeline | beam.Create([]) | RetrainModel(hint)
    components = pipeline.to_runner_api().components
    seen = {}
    for transform in components.transforms.values():
        environment = components.environments.get(transform.environment_id)
        hints = environment.resource_hints if environment is not None else {}
        if resource_hints.ACCELERATOR.urn in hints:
            seen[transform.unique_name.rpartition("/")[2]] = hints[resource_hints.ACCELERATOR.urn].decode()
    return seen


def test_the_training_step_alone_asks_for_an_accelerator() -> None:
    hint = "type:nvidia-tesla-t4;count:1"
    seen = accelerators(hint)
    assert set(seen.values()) == {hint}
    assert not [name for name in seen if "TrainModels" not in name]
    assert accelerators("") == {}


def step(number: int) -> Step:
    return Step("gan", epoch=2, epochs=3, step=number, steps=10, loss=0.5)


def test_progress_is_written_now_and_then_and_can_be_read(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == {}
    note = ProgressFile(tmp_path, clock=iter((0.0, 0.0, 0.3, 0.9)).__next__)
    note(step(4))
    assert read_progress(tmp_path) == {
        "stage": "gan",
        "epoch": 2,
        "epochs": 3,
        "done": 14,
        "steps": 30,
        "loss": 0.5,
    }
    note(step(5))
    assert read_progress(tmp_path)["done"] == 14
    note(step(6))
    assert read_progress(tmp_path)["done"] == 16
