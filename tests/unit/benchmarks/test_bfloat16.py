"""What a label is, where bfloat16 is compared with float32."""

import numpy as np

from benchmarks.bfloat16 import labels_of


def test_a_label_is_the_likeliest_view_or_a_side_of_one_half() -> None:
    assert labels_of("view", np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)).tolist() == [1, 0]
    assert labels_of("lvh", np.array([[0.5], [0.4]], np.float32)).tolist() == [True, False]
    masks = np.array([[[[0.1, 0.9]]], [[[0.7, 0.3]]]], np.float32)
    assert labels_of("fov", masks).tolist() == [[[True]], [[False]]]
