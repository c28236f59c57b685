"""What ships with the package is small, whole, and says what it is."""

import pytest

from echo_models.manifest import CARD, TASKS, verify
from echo_models.registry import SHIPPED

LIMIT_BYTES = 25 * 1000 * 1000


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_ships_for_the_task_with_every_digest_right(task: str) -> None:
    folders = sorted((SHIPPED / task).glob("*/"))
    assert folders
    for folder in folders:
        manifest = verify(folder)
        assert (manifest.task, manifest.version) == (task, folder.name)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_card_says_that_training_was_synthetic_and_use_is_not_clinical(task: str) -> None:
    for folder in sorted((SHIPPED / task).glob("*/")):
        card = (folder / CARD).read_text().lower()
        assert "synthetic" in card
        assert "clinical" in card


def test_the_shipped_bundles_stay_under_their_limit() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert sizes
    assert sum(sizes) < LIMIT_BYTES
