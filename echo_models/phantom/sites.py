"""Sites: whose machines, presets and screens a set of frames comes from.

The phantom at home scans with any machine. A site has few, set alike by the same people: its frames are
narrower than the phantom's in some ways and outside of them in others. Labels come from one site and the
archive from another, and that is the shift that semi-supervised learning meets in use.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from echo_models.phantom.errors import InvalidRequestError
from echo_models.phantom.screen import Box
from echo_models.phantom.sector import MachineSettings

__all__ = ["HOME", "SITES", "Site", "site_named"]

Range = tuple[float, float]
"""Least and most of a uniform draw."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the scans of one site have in common.

    Attributes:
        name: In plans and reports.
        title: What it stands for.
        severity_ratio: Times the severity that is asked for: patients and windows.
        machine: Ranges of those fields of `MachineSettings` that its machines set alike; others are as
            drawn at home.
        image_ratio: Size of the image on the screen, of its size at home.
        mirrored: Left and right are exchanged, as some laboratories show apical views.
        black_grey: Grey of black on its screens.
        artefacts: Strength of single artefacts, by name in `ARTEFACTS`, times the severity.
    """

    name: str
    title: str
    severity_ratio: float = 1.0
    machine: Mapping[str, Range] = field(default_factory=dict)
    image_ratio: float = 1.0
    mirrored: bool = False
    black_grey: int = 0
    artefacts: Mapping[str, float] = field(default_factory=dict)

    def settings(self, drawn: MachineSettings, rng: np.random.Generator) -> MachineSettings:
        """Set a machine as this site does.

        Args:
            drawn: As at home.
            rng: Drawn from once for each range of the site, so not at all at home.
        """
        return replace(drawn, **{name: float(rng.uniform(*ends)) for name, ends in self.machine.items()})

    def placed(self, box: Box) -> Box:
        """Give the image the place on the screen that it has here: smaller about the same middle."""
        if self.image_ratio == 1.0:
            return box
        rows, columns = (
            (1 - self.image_ratio) / 2 * side for side in (box.bottom - box.top, box.right - box.left)
        )
        return Box(
            top=int(box.top + rows),
            bottom=int(box.bottom - rows),
            left=int(box.left + columns),
            right=int(box.right - columns),
        )


HOME: Final = Site("home", "any machine: what the phantom's labeled frames come from")

_BEDSIDE: Final = Site(
    "bedside",
    "hand-held machines at the bedside: small coarse images, poor windows",
    severity_ratio=1.2,
    machine={
        "dynamic_range_db": (40, 48),
        "bright_grey": (95, 145),
        "half_angle": (math.radians(29), math.radians(35)),
        "axial_px": (1.6, 2.6),
        "near_lateral_px": (3.0, 4.5),
        "far_lateral_px": (2.4, 3.6),
        "compounding_ratio": (0.0, 0.15),
    },
    image_ratio=0.75,
)
_SMOOTH: Final = Site(
    "smooth",
    "machines with strong speckle reduction and a flat grey curve",
    severity_ratio=0.8,
    machine={
        "dynamic_range_db": (66, 80),
        "gamma": (0.7, 0.95),
        "reject": (0.0, 0.0),
        "half_angle": (math.radians(48), math.radians(55)),
        "compounding_ratio": (0.92, 1.0),
    },
    black_grey=14,
)
_MIRRORED: Final = Site(
    "mirrored",
    "a laboratory that shows left and right exchanged, hard and bright",
    machine={"bright_grey": (190, 245), "gamma": (1.8, 2.2), "reject": (0.05, 0.1)},
    mirrored=True,
)

SITES: Final[Mapping[str, Site]] = {site.name: site for site in (HOME, _BEDSIDE, _SMOOTH, _MIRRORED)}


def site_named(name: str) -> Site:
    """Give a site by its name.

    Raises:
        InvalidRequestError: There is none of that name.
    """
    if name not in SITES:
        raise InvalidRequestError(f"The site must be one of {', '.join(SITES)}; got {name!r}.")
    return SITES[name]
