"""What a scan adds to and takes from the tissue: gains and losses in decibels on the polar grid.

All of it is drawn once for a clip, because it belongs to the probe's position, not to the beat.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.errors import InvalidRequestError
from echo_models.phantom.tissue import Tissue

__all__ = ["ARTEFACTS", "AS_USUAL", "NO_TISSUE", "Artefacts", "draw_artefacts"]

NO_TISSUE: Final = 255

ARTEFACTS: Final = (
    "contact", "shadow", "dropout", "compensation", "haze", "reverberation", "noise", "side_lobe", "window",
)  # fmt: skip
"""Those whose strength can be set one by one."""

AS_USUAL: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Artefacts:
    """Fields of one clip on the polar grid of [L, S] lines and samples.

    Attributes:
        gain_db: Gain or loss everywhere: contact, shadows, dropout, time gain compensation.
        clutter_db: Level of additive haze, near-field clutter and reverberation.
        noise_db: Level of the machine's own noise.
        chest_wall: Tissue labels of the chest wall; `NO_TISSUE` where there is none.
        seen: Lines of the acoustic window; lung hides what lies behind the others, [L].
        side_lobe_ratio: Amplitude of the side lobes.
        lung_decay_db: Loss per sample inside lung and behind bone.
    """

    gain_db: FloatArray
    clutter_db: FloatArray
    noise_db: FloatArray
    chest_wall: ByteArray
    seen: BoolArray
    side_lobe_ratio: float
    lung_decay_db: float


def _smooth_field(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> FloatArray:
    """Draw a random field at a few knots, and go straight from each to the next."""
    coarse = rng.standard_normal((cells[0] + 3, cells[1] + 3)).astype(np.float32)
    down, along = (_between_knots(*axis) for axis in zip(cells, shape, strict=True))
    return np.asarray(down @ coarse @ along.T, np.float32)


@lru_cache(maxsize=64)
def _between_knots(cells: int, length: int) -> NDArray[np.float64]:
    """Give the weights of linear interpolation between `cells` + 3 knots, [length, knots].

    Two products with such matrices are eight times as fast as `scipy.ndimage.zoom`, and agree with it.
    """
    knots = cells + 3
    places = np.arange(length) * ((knots - 1) / (round(knots * length / cells) - 1))
    return np.asarray(np.clip(1 - np.abs(places[:, None] - np.arange(knots)), 0, 1))


def _bell(x: FloatArray, centre: float, width: float) -> FloatArray:
    return np.asarray(np.exp(-0.5 * ((x - centre) / width) ** 2), np.float32)


def draw_artefacts(
    rng: np.random.Generator,
    *,
    across: FloatArray,
    ranges_mm: FloatArray,
    chest_wall_mm: float,
    severity: float,
    ratios: Mapping[str, float] = AS_USUAL,
) -> Artefacts:
    """Draw the artefacts of one clip.

    Args:
        rng: Source of randomness.
        across: Place of each line in the sector, -1 to 1, [L].
        ranges_mm: Sample distances from the probe, [S].
        chest_wall_mm: Skin to the inside of the chest wall.
        severity: 0 is an ideal scan, 1 the scatter seen in practice, 2 harder than that.
        ratios: Strength of single artefacts, by name in `ARTEFACTS`, times the severity; 1 if not named. Of
            haze and noise it is the amplitude, of shadows and reverberation how often they are.

    Raises:
        InvalidRequestError: A ratio is of no artefact.
    """
    if unknown := sorted(ratios.keys() - set(ARTEFACTS)):
        raise InvalidRequestError(f"An artefact must be one of {', '.join(ARTEFACTS)}; got {unknown}.")
    strength = {name: severity * ratios.get(name, 1.0) for name in ARTEFACTS}
    raised_db = {name: 20 * math.log10(max(ratios.get(name, 1.0), 0.01)) for name in ("haze", "noise")}
    across = across[:, None]
    deep = (ranges_mm / float(ranges_mm.max()))[None, :]
    shape = (across.size, ranges_mm.size)
    gain = np.zeros(shape, np.float32)
    # Poor contact and obliquity at the flanks, seldom the same on both sides.
    centre = rng.normal(0, 0.25) * strength["contact"]
    for side in (-1, 1):
        loss = strength["contact"] * rng.gamma(1.5, 18)
        start = rng.uniform(0.0, 0.9)
        gain -= (
            loss
            * np.clip((side * (across - centre) - start) / (1 - start + 0.2), 0, None) ** 1.5
            * (0.3 + deep)
        )
    # Rib and lung shadows: bands of lines, deepening.
    for _ in range(rng.poisson(strength["shadow"])):
        band = _bell(across, rng.uniform(-1, 1), rng.uniform(0.03, 0.16))
        gain -= rng.uniform(4, 22) * band * np.clip(deep / rng.uniform(0.1, 0.6), 0, 1)
    # Whole wall segments that fail to show.
    missing = np.clip(_smooth_field(rng, shape, (5, 5)) - 0.1, 0, 2.2)
    gain -= strength["dropout"] * 4.0 * missing * rng.uniform(0.4, 2.2)
    gain += severity * 1.5 * _smooth_field(rng, shape, (3, 4))
    # Time gain compensation that is not right: a wavy curve over depth.
    curve = np.interp(
        deep[0],
        np.linspace(0, 1, 7),
        rng.normal(0, 3.2 * strength["compensation"], 7) - np.linspace(0, 3 * rng.normal(0, 1), 7),
    )
    gain += np.asarray(curve, np.float32)[None, :]
    # Haze over everything, near-field clutter, reverberation lines.
    haze_level = -48 + severity * rng.normal(0, 5) + raised_db["haze"]
    clutter = haze_level + 4 * severity * _smooth_field(rng, shape, (4, 4)) - 6 * deep
    near = (
        -20 + severity * rng.normal(0, 5) - ranges_mm[None, :] / (chest_wall_mm * rng.uniform(0.4, 3.0)) * 11
    )
    clutter = np.logaddexp(clutter * 0.23, near * 0.23) / 0.23
    if rng.random() < 0.35 * strength["reverberation"]:
        spacing = rng.uniform(14, 34)
        ladder = np.sum([_bell(ranges_mm, n * spacing, 1.6) * 0.6**n for n in range(1, 5)], axis=0)
        clutter += (14 * ladder[None, :] * _bell(across, rng.normal(0, 0.3), 0.4)).astype(np.float32)
    noise = -64 + severity * rng.normal(0, 4) + rng.uniform(6, 18) * deep * severity
    noise = noise + np.full(shape, raised_db["noise"], np.float32)
    return Artefacts(
        gain_db=np.asarray(gain, np.float32),
        clutter_db=np.asarray(clutter, np.float32),
        noise_db=np.asarray(noise, np.float32),
        chest_wall=_chest_wall(rng, shape, ranges_mm, chest_wall_mm),
        seen=_acoustic_window(rng, across[:, 0], strength["window"]),
        side_lobe_ratio=float(strength["side_lobe"] * rng.uniform(0.005, 0.03)),
        lung_decay_db=float(rng.uniform(0.15, 0.9) * (ranges_mm[1] - ranges_mm[0])),
    )


def _chest_wall(
    rng: np.random.Generator, shape: tuple[int, int], ranges_mm: FloatArray, chest_wall_mm: float
) -> ByteArray:
    """Layer skin, fat, fascia and muscle under the probe, with uneven borders."""
    labels = np.full(shape, NO_TISSUE, np.uint8)
    wavy = gaussian_filter1d(rng.standard_normal(shape[0]), 14) * 5
    depth = ranges_mm[None, :] + wavy[:, None]
    borders = np.sort(rng.uniform(0.05, 0.95, 4)) * chest_wall_mm
    labels[depth < chest_wall_mm] = Tissue.CHEST_WALL
    labels[(depth > borders[0]) & (depth < borders[1])] = Tissue.FAT
    for border in borders:
        labels[np.abs(depth - border) < 0.5] = Tissue.VESSEL_WALL
    return labels


def _acoustic_window(rng: np.random.Generator, across: FloatArray, severity: float) -> BoolArray:
    """Say through which lines the heart is seen."""
    left, right = rng.uniform(0.5, 1.5, 2) / max(severity, 0.5) ** 0.3
    return np.asarray((across > -left) & (across < right))
