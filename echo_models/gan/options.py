"""How the semi-supervised GAN learns: schedules and options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from echo_models.augment import NO_AUGMENTATION, Augmentation
from echo_models.networks import Head


@dataclass(frozen=True, slots=True)
class GanSchedule:
    """How long and how fast the GAN learns.

    Attributes:
        epochs: passes over the unlabeled frames; labeled ones repeat.
        batch_size: frames of each of the three passes of a step.
        learning_rate: of both Adams; it does not decay.
        beta_1: of both Adams.
        max_steps: of an epoch, None for no bound: a budget for one night.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    beta_1: float = 0.9
    max_steps: int | None = None


GAN_SCHEDULES: Final[Mapping[str, GanSchedule]] = {
    # The paper says Adam's default betas; the authors' code has 0.7 and the batch of 40.
    "paper": GanSchedule(epochs=100, batch_size=40, learning_rate=0.0003),
    # A small discriminator learns too little in a night's few steps at 0.0003.
    "small": GanSchedule(epochs=6, batch_size=32, learning_rate=0.001, beta_1=0.7),
}


@dataclass(frozen=True, slots=True)
class GanOptions:
    """What the paper leaves open, or does not have.

    Attributes:
        head: how real is told from generated. "sigmoid" of one unit that is linear in the logits, as
            the authors' code has it; "k_plus_1" for the paper's equations, in which "generated" is one
            more class of the softmax.
        ema_decay: classify with a moving average of the weights, of which each step keeps this share;
            None for the weights themselves, as in the paper.
        ensemble: members, whose probabilities are averaged (paper: three for LVH).
        augmentation: of labeled and unlabeled frames alike; the paper has none here.
    """

    head: Head = "sigmoid"
    ema_decay: float | None = None
    ensemble: int = 1
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        if self.head not in ("sigmoid", "k_plus_1"):
            raise ValueError(f"head must be 'sigmoid' or 'k_plus_1'; received {self.head!r}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, or None; received {self.ema_decay}")
        if self.ensemble < 1:
            raise ValueError(f"an ensemble must have at least one member; received {self.ensemble}")
