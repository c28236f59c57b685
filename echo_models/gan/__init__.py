"""The semi-supervised GAN (paper, Methods, "GAN"): labels for few frames, learning from all.

options → batches → step → training, which watches it and draws what it generates.
"""

from echo_models.gan.options import GAN_SCHEDULES, GanOptions, GanSchedule
from echo_models.gan.step import SemiSupervisedGan
from echo_models.gan.training import TrainedGan, classify, train_gan

__all__ = [
    "GAN_SCHEDULES",
    "GanOptions",
    "GanSchedule",
    "SemiSupervisedGan",
    "TrainedGan",
    "classify",
    "train_gan",
]
