"""Apical planes are named by what they show."""

import numpy as np
import pytest

from echo_models.phantom import random_subject
from echo_models.phantom.anatomy import AORTIC_VALVE, Heart
from echo_models.phantom.planes import hold_probe


def passes_mm(heart: Heart, view: str, seed: int) -> float:
    """Give the distance of a plane from the middle of the aortic valve."""
    plane = hold_probe(heart, view, np.random.default_rng(seed))
    normal = np.cross(plane.beam, plane.lateral)
    valve = AORTIC_VALVE * np.float32(heart.subject.size_ratio)
    return abs(float(np.dot(normal / np.linalg.norm(normal), valve - plane.origin)))


@pytest.mark.parametrize(("view", "shows_it"), [("a2c", False), ("a3c", True), ("a4c", False), ("a5c", True)])
def test_an_apical_view_shows_the_aortic_valve_or_not_as_its_name_says(view: str, *, shows_it: bool) -> None:
    for number in range(30):
        heart = Heart(random_subject(number))
        radius_mm = float(heart.aorta.radii[1]) * heart.subject.size_ratio
        assert (passes_mm(heart, view, number) < radius_mm) is shows_it
