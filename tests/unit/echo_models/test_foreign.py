import numpy as np
import pytest

from echo_models.foreign import FOREIGN_KINDS, render_foreign
from echo_models.phantom import InvalidRequestError


@pytest.mark.parametrize("kind", FOREIGN_KINDS)
def test_a_foreign_frame_is_made_by_its_seed_and_lies_in_its_field_of_view(kind: str) -> None:
    frame, mask = render_foreign(kind, seed=3)
    again, other = render_foreign(kind, seed=3), render_foreign(kind, seed=4)
    assert frame.shape == mask.shape == (120, 160)
    assert frame.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert 0.02 < mask.mean() <= 1
    np.testing.assert_array_equal(frame, again.frame)
    assert kind == "blank" or (frame != other.frame).any()
    assert kind == "blank" or frame[mask].std() > 1


def test_another_size_shows_the_same() -> None:
    small, _ = render_foreign("liver", seed=1)
    large, _ = render_foreign("liver", seed=1, rows=240, columns=320)
    assert np.corrcoef(large[1::2, 1::2].ravel(), small.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(("kind", "rows"), [("a4c", 120), ("liver", 0)])
def test_what_cannot_be_rendered_is_refused(kind: str, rows: int) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be|or more"):
        render_foreign(kind, seed=0, rows=rows)
