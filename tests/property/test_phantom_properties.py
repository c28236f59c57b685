import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_models.phantom import random_subject, render_clip
from echo_models.views import VIEWS


@settings(max_examples=25, deadline=None)
@given(
    subject_seed=st.integers(0, 2**40),
    view=st.sampled_from(VIEWS),
    raster=st.tuples(st.integers(8, 130), st.integers(8, 170)),
    severity=st.floats(0, 2),
    start_phase=st.none() | st.floats(-2, 2),
)
def test_any_request_in_range_can_be_drawn(
    subject_seed: int, view: str, raster: tuple[int, int], severity: float, start_phase: float | None
) -> None:
    rows, columns = raster
    clip = render_clip(
        random_subject(subject_seed),
        view,
        seed=subject_seed // 3,
        number_of_frames=1,
        rows=rows,
        columns=columns,
        severity=severity,
        start_phase=start_phase,
    )
    assert clip.frames.shape == (1, rows, columns)
    assert clip.frames.dtype == np.uint8
    assert not np.any(clip.lv_masks[0] & ~clip.fov_mask)
    for region in clip.regions:
        assert 0 <= region.min_x0 <= region.max_x1 < columns
        assert 0 <= region.min_y0 <= region.max_y1 < rows


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**60), lvh=st.none() | st.booleans())
def test_every_subject_is_an_adult_that_could_be(seed: int, lvh: bool | None) -> None:
    subject = random_subject(seed, lvh=lvh)
    assert 35 <= subject.cavity_diameter_mm <= 62
    assert 4.5 <= subject.posterior_wall_mm <= 22
    assert 5.5 <= subject.septum_mm <= 27
    assert 50 <= subject.lv_mass_g <= 700
    assert lvh is None or subject.hypertrophy.is_lvh == lvh
