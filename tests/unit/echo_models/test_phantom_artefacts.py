"""Artefacts of the phantom, one by one."""

import numpy as np
import pytest

from echo_models.phantom import InvalidRequestError, Site, random_subject, render_clip
from echo_models.phantom.artefacts import ARTEFACTS, Artefacts, draw_artefacts


def drawn(**ratios: float) -> Artefacts:
    return draw_artefacts(
        np.random.default_rng(3),
        across=np.linspace(-1, 1, 64, dtype=np.float32),
        ranges_mm=np.linspace(1, 160, 128, dtype=np.float32),
        chest_wall_mm=20.0,
        severity=1.0,
        ratios=ratios,
    )


def test_a_ratio_of_one_changes_nothing() -> None:
    usual, named = drawn(), drawn(**dict.fromkeys(ARTEFACTS, 1.0))
    for field in ("gain_db", "clutter_db", "noise_db", "chest_wall", "seen"):
        assert np.array_equal(getattr(usual, field), getattr(named, field))


def test_noise_and_haze_grow_by_their_amplitude() -> None:
    assert np.allclose(drawn(noise=4.0).noise_db - drawn().noise_db, 20 * np.log10(4), atol=1e-3)
    raised = drawn(haze=4.0).clutter_db - drawn().clutter_db
    assert raised.min() >= 0
    assert raised.max() == pytest.approx(20 * np.log10(4), abs=0.1)


@pytest.mark.parametrize("name", ["contact", "shadow", "dropout"])
def test_what_takes_echoes_away_takes_more_where_it_is_stronger(name: str) -> None:
    without, strong = drawn(**{name: 0.0}), drawn(**{name: 4.0})
    assert strong.gain_db.mean() < without.gain_db.mean() - 1


def test_an_uneven_compensation_makes_depths_differ() -> None:
    def unevenness(artefacts: Artefacts) -> float:
        return float(artefacts.gain_db.mean(axis=0).std())

    assert unevenness(drawn(compensation=4.0)) > 1.5 * unevenness(drawn(compensation=0.0))


def test_reverberation_lies_on_the_clutter() -> None:
    assert drawn(reverberation=9.0).clutter_db.max() > drawn(reverberation=0.0).clutter_db.max() + 1


def test_side_lobes_and_window_follow_their_ratios() -> None:
    assert drawn(side_lobe=3.0).side_lobe_ratio == pytest.approx(3 * drawn().side_lobe_ratio)
    assert drawn(window=8.0).seen.sum() < drawn().seen.sum()


def test_an_artefact_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"one of contact, .*got \['glare'\]"):
        drawn(glare=1.0)


@pytest.mark.parametrize("view", ["a4c", "mmode"])
def test_a_site_sets_its_artefacts(view: str) -> None:
    def frame(site: Site) -> np.ndarray:
        return render_clip(random_subject(1), view, seed=1, number_of_frames=1, site=site).frames

    usual = frame(Site("a", ""))
    assert not np.array_equal(usual, frame(Site("b", "", artefacts={"noise": 8.0})))
    assert np.array_equal(usual, frame(Site("c", "", artefacts={"noise": 1.0})))
