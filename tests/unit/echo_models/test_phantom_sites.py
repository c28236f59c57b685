"""Sites change the machine and the screen, never the heart or the labels."""

import dataclasses

import numpy as np
import pytest

from echo_models.datasets import Plan, render
from echo_models.phantom import (
    HOME,
    SITES,
    InvalidRequestError,
    Site,
    random_subject,
    render_clip,
    site_named,
)
from echo_models.phantom.screen import Box
from echo_models.phantom.sector import MachineSettings, random_settings

DRAWN = random_settings(np.random.default_rng(0), 160.0, 1.0)


def clip_at(site: Site, view: str = "a4c", seed: int = 2) -> np.ndarray:
    clip = render_clip(random_subject(seed), view, seed=seed, number_of_frames=1, severity=0, site=site)
    return np.asarray(clip.frames[0])


def test_home_draws_nothing_and_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    assert HOME.settings(DRAWN, rng) == DRAWN
    assert rng.bit_generator.state == before
    assert HOME.placed(Box(10, 500, 20, 700)) == Box(10, 500, 20, 700)


@pytest.mark.parametrize("site", SITES.values(), ids=list(SITES))
def test_a_site_sets_its_machines_within_its_ranges(site: Site) -> None:
    for seed in range(20):
        settings = site.settings(DRAWN, np.random.default_rng(seed))
        for name, (low, high) in site.machine.items():
            assert low <= getattr(settings, name) <= high
    assert set(site.machine) <= {field.name for field in dataclasses.fields(MachineSettings)}


@pytest.mark.parametrize("name", [name for name in SITES if name != "home"])
@pytest.mark.parametrize("view", ["a4c", "pw"])
def test_frames_of_a_site_are_others_than_at_home(name: str, view: str) -> None:
    assert not np.array_equal(clip_at(SITES[name], view), clip_at(HOME, view))


def test_a_site_may_show_left_and_right_exchanged() -> None:
    mirrored = dataclasses.replace(HOME, mirrored=True)
    ours, theirs = (
        render_clip(random_subject(2), "a4c", seed=2, number_of_frames=1, severity=0, site=site)
        for site in (HOME, mirrored)
    )
    columns = [np.nonzero(clip.lv_masks[0])[1] for clip in (ours, theirs)]
    middle = [np.nonzero(clip.fov_mask)[1].mean() for clip in (ours, theirs)]
    assert (columns[0].mean() - middle[0]) * (columns[1].mean() - middle[1]) < 0


def test_black_is_as_grey_as_the_site_shows_it() -> None:
    assert clip_at(HOME).min() == 0
    assert clip_at(dataclasses.replace(HOME, black_grey=14)).min() == 14


def test_a_smaller_image_keeps_its_middle() -> None:
    small = dataclasses.replace(HOME, image_ratio=0.5).placed(Box(100, 500, 200, 600))
    assert small == Box(200, 400, 300, 500)


def test_a_site_makes_patients_harder_by_its_ratio() -> None:
    # At severity 0 nothing is left to multiply; at 1 the same draws give other artefacts.
    harder = dataclasses.replace(HOME, severity_ratio=1.5)
    ours, theirs = (
        render_clip(random_subject(2), "a4c", seed=2, number_of_frames=1, site=site).frames
        for site in (HOME, harder)
    )
    assert not np.array_equal(ours, theirs)


def test_a_plan_may_be_of_a_site() -> None:
    plan = Plan(seed=1, subjects=1, views=("a4c",), frames_per_clip=1)
    at_home, there = render(plan), render(dataclasses.replace(plan, site="mirrored"))
    assert at_home.fingerprint() != there.fingerprint()
    assert at_home.hypertrophy.tolist() == there.hypertrophy.tolist()  # the same people


def test_a_site_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="home, bedside, smooth, mirrored"):
        site_named("elsewhere")
