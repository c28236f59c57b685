"""Kinds of tissue and how strongly each scatters ultrasound back."""

from enum import IntEnum
from typing import Final

import numpy as np

from echo_models.phantom.arrays import FloatArray, vector

__all__ = ["OBLIQUE_LOSS_DB", "Tissue", "echogenicity_db"]


class Tissue(IntEnum):
    """One label of the anatomy."""

    BLOOD = 0
    MYOCARDIUM = 1
    ATRIAL_WALL = 2
    VALVE = 3
    PERICARDIUM = 4
    FAT = 5
    MEDIASTINUM = 6
    LUNG = 7
    LIVER = 8
    VESSEL_WALL = 9
    BONE = 10
    GAS = 11
    CHEST_WALL = 12
    ATRIAL_SEPTUM = 13


# Decibels under the brightest pericardium. The order (blood < liver, muscle < fat < fibrous tissue) is that
# of Duck FA, "Physical Properties of Tissue" (1990), chapter 4; the steps are set by eye on real clips.
# The atrial septum is a membrane of its own: along the beam of an apical probe it seldom shows (Silvestry FE
# et al., J Am Soc Echocardiogr 28:910-958, 2015).
_MEAN_DB: Final = vector([-55, -21, -18, -11, -4, -24, -20, -20, -27, -12, -4, -14, -24, -27])
_SPREAD_DB: Final = vector([4, 5, 5, 6, 4, 6, 8, 8, 4, 4, 3, 6, 5, 9])

OBLIQUE_LOSS_DB: Final = vector([0, 4, 14, 7, 15, 4, 0, 0, 0, 15, 6, 6, 0, 17])
"""Loss of an echo where its border runs along the beam: thin sheets are mirrors, seen only head on."""


def echogenicity_db(rng: np.random.Generator, severity: float) -> FloatArray:
    """Draw the mean scattering level of each tissue in one scan.

    Returns:
        Levels in decibels, [number of tissues], float32, indexed by `Tissue`.
    """
    return _MEAN_DB + severity * _SPREAD_DB * vector(rng.normal(0, 1, _MEAN_DB.size).clip(-2, 2).tolist())
