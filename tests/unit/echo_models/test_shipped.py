from pathlib import Path

import numpy as np
import pytest

from echo_models.bundle import load_bundle
from echo_models.datasets import LabeledFrames, Plan, render
from echo_models.evaluation import dice_by_frame
from echo_models.manifest import CARD, TASKS, read_manifest, verify
from echo_models.preprocessing import apply_mask
from echo_models.registry import SHIPPED, Registry
from echo_models.views import VIEWS


def shipped(task: str) -> Path:
    (folder,) = (SHIPPED / task).iterdir()  # one of each: which one is put to work is no accident
    return folder


@pytest.fixture(scope="module")
def unseen() -> LabeledFrames:
    """Two subjects of a seed that no shipped model was trained on, in every view."""
    return render(Plan(seed=987_654, subjects=2, frames_per_clip=1))


def test_every_task_ships_with_one_whole_bundle_and_all_are_small() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == set(TASKS)
    for task in TASKS:
        assert verify(shipped(task)).task == task
    size_bytes = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())
    assert size_bytes < 25_000_000


@pytest.mark.parametrize("task", TASKS)
def test_every_card_says_what_the_model_is_not(task: str) -> None:
    card = (shipped(task) / CARD).read_text()
    manifest = read_manifest(shipped(task))
    words = " ".join(card.split())
    assert "not for clinical use, not a medical device" in words
    assert "Trained and measured on synthetic frames" in words
    for name, interval in manifest.metrics.items():
        assert f"| {name} | {interval.value:.3f} | {interval.low:.3f} to {interval.high:.3f} |" in card
    assert manifest.training["data_fingerprint"][:16] in card
    assert manifest.training["seed"] != 987_654


def test_a_fresh_registry_puts_all_of_them_to_work(tmp_path: Path) -> None:
    assert len(Registry(tmp_path).install_shipped()) == len(TASKS)


def test_the_shipped_field_of_view_is_near_the_true_one(unseen: LabeledFrames) -> None:
    probabilities = load_bundle(shipped("fov")).predict(unseen.frames)
    assert np.median(dice_by_frame(unseen.fov_masks, probabilities > 0.5)) > 0.9


def test_the_shipped_view_names_most_synthetic_frames(unseen: LabeledFrames) -> None:
    bundle = load_bundle(shipped("view"))
    assert bundle.manifest.classes == VIEWS
    probabilities = bundle.predict(apply_mask(unseen.frames, unseen.fov_masks))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    assert (probabilities.argmax(axis=1) == unseen.views).mean() > 0.5


def test_the_shipped_ventricle_and_hypertrophy_give_probabilities(unseen: LabeledFrames) -> None:
    a4c = unseen.take(unseen.views == VIEWS.index("a4c"))
    outlines = load_bundle(shipped("lv")).predict(apply_mask(a4c.frames, a4c.fov_masks)) > 0.5
    assert outlines.any()
    hypertrophy = load_bundle(shipped("lvh")).predict(apply_mask(a4c.frames, outlines))
    assert ((hypertrophy >= 0) & (hypertrophy <= 1)).all()
