from pathlib import Path

import numpy as np
import pytest

from echo_models.augment import Augmentation
from echo_models.datasets import Examples, LabeledFrames, Plan, render, split_by_subject
from echo_models.errors import DatasetError
from echo_models.views import VIEWS
from tests.toy import toy_frames

PLAN = Plan(seed=3, subjects=5, views=("a4c", "mmode"), frames_per_clip=1)


@pytest.fixture(scope="module")
def rendered() -> LabeledFrames:
    return render(PLAN)


def test_the_phantom_gives_frames_with_their_labels(rendered: LabeledFrames) -> None:
    assert len(rendered) == 5 * 2
    assert rendered.frames.shape == (10, 120, 160)
    assert rendered.frames.dtype == np.uint8
    assert set(rendered.views) == {VIEWS.index("a4c"), VIEWS.index("mmode")}
    assert sorted(set(rendered.subjects)) == [0, 1, 2, 3, 4]
    assert rendered.fov_masks.any(axis=(1, 2)).all()
    visible = np.asarray(rendered.lv_masks.any(axis=(1, 2)))
    assert visible[rendered.views == VIEWS.index("a4c")].any()
    assert not visible[rendered.views == VIEWS.index("mmode")].any()


def test_two_processes_render_what_one_does(rendered: LabeledFrames) -> None:
    assert render(PLAN, processes=2).fingerprint() == rendered.fingerprint()


def test_another_seed_renders_other_frames(rendered: LabeledFrames) -> None:
    assert render(Plan(seed=4, subjects=1, views=("a4c",))).fingerprint() != rendered.fingerprint()


def test_a_cached_set_is_read_again_whole(rendered: LabeledFrames, tmp_path: Path) -> None:
    done = []
    first = render(PLAN, cache=tmp_path, on_progress=lambda part, whole: done.append((part, whole)))
    assert done == [(4, 5), (5, 5)]
    again = render(PLAN, cache=tmp_path, on_progress=lambda part, whole: done.append((part, whole)))
    assert len(done) == 2  # nothing was rendered again
    assert first.fingerprint() == again.fingerprint() == rendered.fingerprint()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cached_set_of_another_resolution_is_what_was_rendered(tmp_path: Path) -> None:
    fine = Plan(seed=3, subjects=1, views=("a4c",), frames_per_clip=1, rows=240, columns=320)
    first = render(fine, cache=tmp_path)
    assert render(fine, cache=tmp_path).fingerprint() == first.fingerprint()


def test_no_subject_makes_no_frames() -> None:
    with pytest.raises(DatasetError, match="at least one subject"):
        render(Plan(seed=0, subjects=0))


def test_a_fingerprint_sees_every_array() -> None:
    labeled = toy_frames(subjects=2)
    before = labeled.fingerprint()
    labeled.lv_masks[0, 0, 0] ^= True
    assert labeled.fingerprint() != before


def test_no_subject_is_in_two_parts_and_each_has_both_kinds() -> None:
    labeled = toy_frames(subjects=40, frames_each=2)
    split = split_by_subject(labeled, seed=1)
    parts = [set(part.subjects) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [28, 6, 6]
    assert set.union(*parts) == set(range(40))
    assert all(
        part.hypertrophy.any() and not part.hypertrophy.all() for part in (split.validation, split.test)
    )
    again = split_by_subject(labeled, seed=1)
    assert np.array_equal(again.test.subjects, split.test.subjects)
    assert not np.array_equal(split_by_subject(labeled, seed=2).test.subjects, split.test.subjects)


def test_too_few_subjects_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="2 subjects are too few"):
        split_by_subject(toy_frames(subjects=2), seed=0)


def test_examples_are_masked_and_scaled() -> None:
    labeled = toy_frames(subjects=2)
    examples = Examples(labeled.frames, labeled.fov_masks, labeled.views)
    inputs, targets = examples.batch(np.array([1, 0]))
    assert inputs.shape == (2, 120, 160, 1)
    assert inputs.dtype == np.float32
    assert not inputs[..., 0][~labeled.fov_masks[[1, 0]]].any()
    assert np.array_equal(inputs[0, 60, :, 0] * 255, labeled.frames[1, 60] * labeled.fov_masks[1, 60])
    assert targets.tolist() == labeled.views[[1, 0]].tolist()


def test_an_outline_moves_with_its_frame() -> None:
    labeled = toy_frames(subjects=4)
    bright = labeled.lv_masks.astype(np.uint8) * 200
    examples = Examples(bright, None, labeled.lv_masks)
    inputs, targets = examples.batch(slice(0, 8), Augmentation(), (5,))
    assert np.array_equal(inputs[..., 0] > 0, targets == 1)
    assert not np.array_equal(targets, labeled.lv_masks[:8])


def test_equal_seeds_change_examples_equally() -> None:
    labeled = toy_frames(subjects=2)
    examples = Examples(labeled.frames, labeled.fov_masks, labeled.views)
    change = Augmentation(jitter=1.0, mask_growth_px=(-2, 2), unmasked_share=0.3)
    first, again, other = (examples.batch(slice(0, 4), change, seed)[0] for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_examples_that_do_not_fit_together_are_refused() -> None:
    labeled = toy_frames(subjects=2)
    with pytest.raises(DatasetError, match="as many"):
        Examples(labeled.frames, None, labeled.views[:3])
    with pytest.raises(DatasetError, match="as many"):
        Examples(labeled.frames[:0], None, labeled.views[:0])
