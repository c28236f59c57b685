import numpy as np
import pytest
from PIL import Image

from echo_models.preprocessing import apply_mask, nearest_positions, shrink, to_input


# No size whose centres fall on an edge between samples: there Pillow goes by rounding errors.
@pytest.mark.parametrize(("size", "target"), [(600, 120), (480, 120), (708, 120), (7, 3), (3, 7), (5, 5)])
def test_sampling_agrees_with_pillow(size: int, target: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (size, size + 1), np.uint8)
    reference = Image.fromarray(frame).resize((target + 1, target), Image.Resampling.NEAREST)
    assert np.array_equal(shrink(frame[None], target, target + 1)[0], np.asarray(reference))


def test_a_frame_of_the_right_size_is_left_alone() -> None:
    frames = np.zeros((2, 120, 160), np.uint8)
    assert shrink(frames) is frames


def test_sampling_refuses_sizes_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        nearest_positions(0, 4)


def test_outside_the_mask_is_black_and_inside_untouched() -> None:
    frames = np.full((2, 3, 4), 7, np.uint8)
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    masked = apply_mask(frames, mask)
    assert masked.sum() == 2 * 7
    assert (masked[:, 1, 2] == 7).all()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"received \[4, 3\]"):
        apply_mask(np.zeros((2, 3, 4), np.uint8), np.zeros((4, 3), bool))


def test_input_runs_from_0_to_1() -> None:
    inputs = to_input(np.array([[[0, 255]]], np.uint8))
    assert inputs.dtype == np.float32
    assert inputs.tolist() == [[[[0.0], [1.0]]]]


@pytest.mark.parametrize("frames", [np.zeros((1, 2, 3), np.float32), np.zeros((2, 3), np.uint8)])
def test_input_refuses_what_is_not_grey_bytes(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_input(frames)
