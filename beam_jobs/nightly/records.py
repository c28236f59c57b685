"""What the stages of a night hand on, and what a night was."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from beam_jobs.nightly.order import NightOrder
from beam_jobs.pool_dataset import PoolManifest
from echo_models.gate import Decision
from echo_models.manifest import Interval


class Outcome(StrEnum):
    """How a night ended."""

    PROMOTED = "promoted"
    KEPT_OUT = "kept_out"
    NO_POOL = "no_pool"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What two models said of the fixed labeled set.

    Attributes:
        labels: [N], int64, true classes.
        subjects: [N], int64.
        candidate: [N] or [N, K], float32 probabilities of the new model.
        production: the same of the model at work; None if there is none that can be loaded.
        production_version: of the model at work.
        test_fingerprint: of the fixed labeled set.
        fault: why the new bundle cannot be used; None if it can.
    """

    order: NightOrder
    labels: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]
    candidate: npt.NDArray[np.float32]
    production: npt.NDArray[np.float32] | None
    production_version: str | None
    test_fingerprint: str
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said, and what each model scored on the fixed set.

    Attributes:
        decision: of the gate.
        candidate: measures of the new model, with intervals; empty if it cannot be used.
        production: the same of the model at work; empty if there was none.
        production_version: the version at work when it was judged.
        test_fingerprint: of the fixed labeled set.
    """

    decision: Decision
    candidate: Mapping[str, Interval]
    production: Mapping[str, Interval]
    production_version: str | None
    test_fingerprint: str


@dataclass(frozen=True, slots=True)
class Night:
    """What one run did.

    Attributes:
        version: of the new bundle.
        pool: what was learned from.
        epochs: passes over the unlabeled frames that were made.
        pruned: versions that were removed, being older than what is kept.
        duration_s: of this run; that of a run that was killed before it is not in it.
    """

    outcome: Outcome
    task: str
    version: str
    verdict: Verdict
    pool: PoolManifest
    epochs: int
    pruned: tuple[str, ...] = ()
    duration_s: float = 0.0

    @property
    def production(self) -> str | None:
        """Name the version that was at work before, or None."""
        return self.verdict.production_version

    @property
    def test_fingerprint(self) -> str:
        """Name the fixed labeled set."""
        return self.verdict.test_fingerprint
