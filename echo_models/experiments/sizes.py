"""How much of everything an experiment takes."""

from dataclasses import dataclass, replace
from typing import Final

from echo_models.networks import PRESETS, Preset


@dataclass(frozen=True, slots=True)
class Size:
    """The amounts of one size.

    Attributes:
        preset: networks and schedules.
        subjects: phantom subjects of the view experiments.
        hypertrophy_subjects: of the hypertrophy experiment.
        epochs: of every stage at most; None for the schedule's.
        sharp: networks of the resolution study, which must not average pixels first.
        transfer_frames: training frames of the large ImageNet networks at most; None for all.
    """

    preset: str
    subjects: int
    hypertrophy_subjects: int
    epochs: int | None
    sharp: Preset
    transfer_frames: int | None


_SHARP_SMALL: Final = replace(PRESETS["small"], stem_pool=1, cnn_filters=(8, 16, 32, 32))

SIZES: Final = {
    # Proves that the command works, in seconds; its numbers mean nothing.
    "toy": Size("small", 10, 12, 1, replace(_SHARP_SMALL, cnn_filters=(2, 2, 2, 2)), 16),
    # Hours of two cores.
    "small": Size("small", 160, 600, None, _SHARP_SMALL, 1000),
    # As many frames as memory takes, and the paper's networks: for a GPU.
    "paper": Size("paper", 2000, 1100, None, PRESETS["paper"], None),
}
