"""Section `[retrain]` of the configuration: what the nightly job may take, keep and promote."""

from typing import Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from beam_jobs.selection import SelectionRules
from dicom_listener.settings import RootedPath, SectionSettings
from echo_models.gate import GateRule

SECTION: Final = "retrain"

_POOL_RULES: Final = SelectionRules()
_GATE: Final = GateRule()


class RetrainSettings(SectionSettings):
    """Section `[retrain]`: the pool, the training budget, the gate and where metrics go.

    The defaults are a toy budget: an archive of a few studies is through in about 90 s on two cores.
    """

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_RETRAIN_")

    pool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "pool",
        description="Folder of stored frames and of the datasets made of them.",
    )
    results: RootedPath = Field(
        default_factory=lambda data: data["root"] / "results", description="Folder of the tables."
    )
    models: RootedPath = Field(
        default_factory=lambda data: data["root"] / "models", description="The model registry."
    )

    min_view_confidence: float = Field(
        _POOL_RULES.min_view_confidence,
        ge=0,
        le=1,
        description="Least probability of apical four chamber for the pool (ratio).",
    )
    min_fov_area_ratio: float = Field(
        _POOL_RULES.min_fov_area_ratio,
        ge=0,
        le=1,
        description="Least part of a frame inside the field of view for the pool (ratio).",
    )
    max_frames_per_study: int = Field(
        _POOL_RULES.max_frames_per_study, ge=1, description="Most frames of one study in the pool."
    )
    max_frames_per_subject: int = Field(
        _POOL_RULES.max_frames_per_subject, ge=1, description="Most frames of one subject in the pool."
    )
    frames_per_shard: int = Field(10_000, ge=1, description="About how many frames a file of the pool has.")
    min_pool_frames: int = Field(
        16, ge=1, description="With fewer frames in the pool nothing is trained and production stays."
    )
    keep_datasets: int = Field(2, ge=1, description="Datasets kept, the newest ones; older are removed.")
    beam_options: list[str] = Field(default_factory=list, description="Options passed to Beam as they are.")

    seed: int = Field(
        0, ge=0, description="Seed of the labeled frames, the weights and the order of training."
    )
    preset: Literal["small", "paper"] = Field("small", description="Widths of the networks.")
    epochs: int | None = Field(
        None, ge=0, description="Passes over the unlabeled frames; none for what training_steps need."
    )
    training_steps: int = Field(36, ge=1, description="Steps of training, where epochs is not set.")
    labeled_subjects: int = Field(
        120, ge=2, description="Phantom subjects whose labeled frames train the model."
    )
    test_subjects: int = Field(
        100, ge=10, description="Phantom subjects of the fixed labeled set that judges every model."
    )
    max_unlabeled_frames: int = Field(
        400, ge=1, description="Most frames of the pool that one night trains on, drawn by the seed."
    )
    time_budget_s: float = Field(
        3600, gt=0, description="Training stops after so long; what it learned is judged (seconds)."
    )

    gate_floor: float = Field(
        _GATE.floor, ge=0, le=1, description="Least balanced accuracy of a model that is promoted (ratio)."
    )
    gate_margin: float = Field(
        _GATE.margin,
        ge=0,
        le=1,
        description="How much worse than production the lower end of its interval may be (ratio).",
    )

    pushgateway_url: str | None = Field(
        None, description="Pushgateway that takes the metrics of the night, such as http://localhost:9091."
    )

    @property
    def rules(self) -> SelectionRules:
        """What a frame must satisfy to be in the pool."""
        return SelectionRules(
            min_view_confidence=self.min_view_confidence,
            min_fov_area_ratio=self.min_fov_area_ratio,
            max_frames_per_study=self.max_frames_per_study,
            max_frames_per_subject=self.max_frames_per_subject,
        )

    @property
    def gate(self) -> GateRule:
        """What is asked of a new model."""
        return GateRule(floor=self.gate_floor, margin=self.gate_margin)
