"""How much of everything an experiment takes."""

from dataclasses import dataclass, replace
from typing import Final

from echo_models.fitting import OnStep, Run
from echo_models.networks import PRESETS, Preset
from echo_models.training import run_of


@dataclass(frozen=True, slots=True)
class Size:
    """The amounts of one size.

    Attributes:
        preset: networks and schedules.
        resolution_subjects: phantom subjects of the resolution study.
        subjects: of the view comparison.
        hypertrophy_subjects: of the hypertrophy comparison.
        severity_subjects: of each point of a severity curve, in all views.
        severity_hearts: of each point, in apical four-chamber views only.
        epochs: of every stage at most; None for the schedule's.
        view_batch: frames of a step of the view CNN; None for the schedule's. With few frames, more steps.
        test_ratio: share of the subjects that the test set is. A frame costs less to draw than to learn
            from, and what makes an interval narrow is subjects.
        sharp: networks of the resolution study, which must not average pixels first.
        transfer_frames: training frames of the large ImageNet networks at most; None for all.
    """

    preset: str
    resolution_subjects: int
    subjects: int
    hypertrophy_subjects: int
    severity_subjects: int
    severity_hearts: int
    epochs: int | None
    view_batch: int | None
    test_ratio: float
    sharp: Preset
    transfer_frames: int | None

    def run(self, seed: int, on_step: OnStep) -> Run:
        """Give the preset's run with this size's epochs and batch.

        Args:
            seed: of everything random.
            on_step: called after each training step.
        """
        run = run_of(self.preset, epochs=self.epochs, seed=seed, on_step=on_step)
        if self.view_batch is None:
            return run
        view = replace(run.schedules["view"], batch_size=self.view_batch)
        return replace(run, schedules={**run.schedules, "view": view})


# At 240 x 320 nine tenths of the time is the first pair's, whose filters are 7 x 7.
_SHARP_SMALL: Final = replace(PRESETS["small"], stem_pool=1, cnn_filters=(4, 16, 32, 32))
_SHARP_MEDIUM: Final = replace(PRESETS["small"], stem_pool=1, cnn_filters=(8, 16, 32, 32))

SIZES: Final = {
    # Proves that the command works, in seconds; its numbers mean nothing.
    "toy": Size(
        preset="small",
        resolution_subjects=10,
        subjects=10,
        hypertrophy_subjects=12,
        severity_subjects=2,
        severity_hearts=2,
        epochs=1,
        view_batch=None,
        test_ratio=0.15,
        sharp=replace(_SHARP_SMALL, cnn_filters=(2, 2, 2, 2)),
        transfer_frames=16,
    ),
    # Ten minutes of two cores each, `resolution` an hour.
    "small": Size(
        preset="small",
        resolution_subjects=120,
        subjects=150,
        hypertrophy_subjects=1500,
        severity_subjects=12,
        severity_hearts=40,
        epochs=10,
        view_batch=32,
        test_ratio=0.3,
        sharp=_SHARP_SMALL,
        transfer_frames=300,
    ),
    # Hours of two cores.
    "medium": Size(
        preset="small",
        resolution_subjects=300,
        subjects=500,
        hypertrophy_subjects=2000,
        severity_subjects=60,
        severity_hearts=200,
        epochs=None,
        view_batch=None,
        test_ratio=0.2,
        sharp=_SHARP_MEDIUM,
        transfer_frames=1000,
    ),
    # As many frames as memory takes, and the paper's networks: for a GPU.
    "paper": Size(
        preset="paper",
        resolution_subjects=2000,
        subjects=2000,
        hypertrophy_subjects=1100,
        severity_subjects=200,
        severity_hearts=600,
        epochs=None,
        view_batch=None,
        test_ratio=0.15,
        sharp=PRESETS["paper"],
        transfer_frames=None,
    ),
}
