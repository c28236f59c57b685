from dataclasses import replace

import numpy as np

from echo_models.augment import Augmentation, change, cut_out, disturb_masks, jitter, move


def square() -> np.ndarray:
    frames = np.zeros((20, 120, 160), np.uint8)
    frames[:, 40:80, 60:100] = 200
    return frames


def test_a_mask_moves_with_its_frame() -> None:
    frames, masks = move((square(), square()), Augmentation(), np.random.default_rng(0))
    assert np.array_equal(frames, masks)
    assert not np.array_equal(frames, square())


def test_frames_move_no_further_than_asked() -> None:
    (shifted,) = move(
        (square(),), Augmentation(rotation_degrees=0, shift_ratio=0.1), np.random.default_rng(0)
    )
    for frame in shifted:
        rows, columns = np.nonzero(frame)
        assert abs(rows.mean() - 59.5) <= 12.5
        assert abs(columns.mean() - 79.5) <= 16.5
        assert (frame > 0).sum() == 40 * 40  # shifted, nothing lost


def test_frames_can_move_further_across_than_down() -> None:
    across = Augmentation(rotation_degrees=0, shift_ratio=0.05, across_ratio=0.2)
    (shifted,) = move((square(),), across, np.random.default_rng(0))
    places = [[axis.mean() for axis in np.nonzero(frame)] for frame in shifted]
    rows, columns = np.abs(np.array(places) - (59.5, 79.5)).max(axis=0)
    assert rows <= 6.5
    assert 16.5 < columns <= 32.5


def test_rotation_keeps_the_middle() -> None:
    (turned,) = move((square(),), Augmentation(rotation_degrees=10, shift_ratio=0), np.random.default_rng(0))
    assert (turned[:, 50:70, 75:85] == 200).all()
    assert (turned != square()).any()


def test_equal_seeds_change_equally() -> None:
    (first,) = move((square(),), Augmentation(), np.random.default_rng(3))
    (again,) = move((square(),), Augmentation(), np.random.default_rng(3))
    assert np.array_equal(first, again)


def test_jitter_keeps_black_dark_and_order() -> None:
    frames = np.tile(np.arange(256, dtype=np.uint8), (10, 1, 1))
    changed = jitter(frames, 1.0, np.random.default_rng(0))
    assert set(changed[..., 0].ravel()) <= {0, 1, 2, 3, 4}
    assert (changed[..., 0] == 0).any()
    assert (np.diff(changed.astype(int), axis=-1) >= 0).all()
    assert (changed != frames).any(axis=(1, 2)).all()


def test_masks_grow_shrink_and_open() -> None:
    masks = square() > 0
    grown = disturb_masks(masks, Augmentation(mask_growth_px=(2, 2)), np.random.default_rng(0))
    assert (grown.sum(axis=(1, 2)) == 44 * 44).all()
    shrunk = disturb_masks(masks, Augmentation(mask_growth_px=(-2, -2)), np.random.default_rng(0))
    assert (shrunk.sum(axis=(1, 2)) == 36 * 36).all()
    opened = disturb_masks(masks, Augmentation(unmasked_share=0.5), np.random.default_rng(0))
    whole = opened.all(axis=(1, 2))
    assert 0 < whole.sum() < 20
    assert np.array_equal(opened[~whole], masks[~whole])


def test_a_square_is_cut_out_whole() -> None:
    frames = np.full((30, 40, 60), 200, np.uint8)
    blanked = cut_out(frames, 0.25, np.random.default_rng(0))
    for frame in blanked:
        rows, columns = np.nonzero(frame == 0)
        assert len(rows) == 10 * 10
        assert np.ptp(rows) == np.ptp(columns) == 9
    assert len({frame.tobytes() for frame in blanked}) > 20
    assert (frames == 200).all()


def test_frames_without_masks_are_changed_as_asked_and_no_more() -> None:
    rng = np.random.default_rng(0)
    still = Augmentation(rotation_degrees=0, shift_ratio=0)
    assert np.array_equal(change(square(), still, rng), square())
    for one in ({"rotation_degrees": 10}, {"shift_ratio": 0.1}, {"jitter": 1.0}, {"cutout_ratio": 0.5}):
        assert not np.array_equal(change(square(), replace(still, **one), rng), square())
