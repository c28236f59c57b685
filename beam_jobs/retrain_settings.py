"""Section `[retrain]` of the configuration: what the nightly job may take, keep and promote."""

from typing import Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from beam_jobs.pooling.rules import PoolRules
from dicom_listener.settings import RootedPath, RootedPlace, SectionSettings
from echo_models.gate import GateRule

SECTION: Final = "retrain"

_POOL_RULES: Final = PoolRules()
_GATE: Final = GateRule()

Task = Literal["lvh", "view"]
"""What the nightly job can make."""


class RetrainSettings(SectionSettings):
    """Section `[retrain]`: the pool, the training budget, the gate and where metrics go.

    The defaults are a toy budget: an archive of a few studies is through in about 90 s on two cores.
    """

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_RETRAIN_")

    pool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "pool",
        description="Folder of stored frames and of the datasets made of them.",
    )
    task: Task = Field("lvh", description="What the model is for: hypertrophy, or the names of views.")
    results: RootedPlace = Field(
        default_factory=lambda data: data["root"] / "results",
        description="Folder of the tables, or `s3://bucket/prefix`.",
    )
    models: RootedPath = Field(
        default_factory=lambda data: data["root"] / "models", description="The model registry."
    )

    archive: RootedPath = Field(
        default_factory=lambda data: data["root"] / "deid_archive",
        description="Folder of the de-identified DICOM files, which a view model learns from.",
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
    known_only: bool = Field(
        _POOL_RULES.known_only, description="Whether to leave out frames that are like no view."
    )
    min_lv_area_ratio: float = Field(
        _POOL_RULES.min_lv_area_ratio,
        ge=0,
        le=1,
        description="Least part of a frame inside the left ventricle for the pool; 0 takes frames without a "
        "visible one (ratio).",
    )
    max_frames_per_machine: int | None = Field(
        _POOL_RULES.max_frames_per_machine,
        ge=1,
        description="Most frames in the pool of one maker's machines; none for no cap.",
    )
    max_pool_frames: int = Field(200_000, ge=1, description="Most frames in the pool, shared by machine.")
    held_out_labels: list[RootedPath] = Field(
        default_factory=list,
        description="Files or folders of labels that judge models: of their subjects no frame is taken.",
    )
    frames_per_shard: int = Field(10_000, ge=1, description="About how many frames a file of the pool has.")
    min_pool_frames: int = Field(
        16, ge=1, description="With fewer frames in the pool nothing is trained and production stays."
    )
    keep_datasets: int = Field(2, ge=1, description="Datasets kept, the newest ones; older are removed.")
    keep_models: int = Field(
        5,
        ge=1,
        description="Models kept of each kind: those promoted last and those published last; what is in "
        "production or ships stays in any case.",
    )
    accelerator: str = Field(
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        description="Resource hint of the training step, for engines that know one; empty for none.",
    )
    beam_options: list[str] = Field(default_factory=list, description="Options passed to Beam as they are.")

    seed: int = Field(
        0, ge=0, description="Seed of the labeled frames, the weights and the order of training."
    )
    preset: Literal["small", "paper"] = Field("small", description="Widths of the networks.")
    head: Literal["sigmoid", "k_plus_1"] = Field(
        "k_plus_1",
        description="How the GAN tells real from generated: a unit of its own, or one more class.",
    )
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Share of the moving average of the weights that a step keeps; 0 to classify with the "
        "last ones.",
    )
    ensemble: int = Field(1, ge=1, description="GANs of different seeds whose probabilities are averaged.")
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

    gate_class_floor: float = Field(
        _GATE.class_floor, ge=0, le=1, description="Least share of each class that a model finds (ratio)."
    )
    gate_max_calibration_error: float = Field(
        _GATE.max_calibration_error,
        ge=0,
        le=1,
        description="Most that a model's confidence and its accuracy may differ (ratio).",
    )

    pushgateway_url: str | None = Field(
        None, description="Pushgateway that takes the metrics of the night, such as http://localhost:9091."
    )

    @property
    def rules(self) -> PoolRules:
        """What a frame must satisfy to be in the pool."""
        return PoolRules(
            min_view_confidence=self.min_view_confidence,
            min_fov_area_ratio=self.min_fov_area_ratio,
            max_frames_per_study=self.max_frames_per_study,
            max_frames_per_subject=self.max_frames_per_subject,
            known_only=self.known_only,
            min_lv_area_ratio=self.min_lv_area_ratio,
            max_frames_per_machine=self.max_frames_per_machine,
            max_frames=self.max_pool_frames,
        )

    @property
    def gate(self) -> GateRule:
        """What is asked of a new model."""
        return GateRule(
            floor=self.gate_floor,
            class_floor=self.gate_class_floor,
            margin=self.gate_margin,
            max_calibration_error=self.gate_max_calibration_error,
        )
