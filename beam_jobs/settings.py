"""Sections `[worker]`, `[retrain]` and `[deid]` of the configuration."""

from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from beam_jobs.deid_settings import DEID_SECTION, DeidSettings
from beam_jobs.records import EndDiastole, Precision
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.settings import Port, RootedPath, RootedPlace, SectionSettings, default_ledger_url

__all__ = ["DEID_SECTION", "SECTION", "DeidSettings", "RetrainSettings", "WorkerSettings"]

SECTION: Final = "worker"


class WorkerSettings(SectionSettings):
    """Section `[worker]`: how complete studies become tables."""

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_WORKER_")

    http_host: str = Field(default="127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    http_port: Port = Field(default=9109, description="HTTP port; 0 takes a free one.")
    studies_per_batch: int = Field(default=8, ge=1, description="Most studies in one pipeline.")
    batches_at_once: int = Field(
        default=1,
        ge=1,
        description="Pipelines at work at once in this process: with more, one may have the networks while "
        "another reads or writes.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        description="Most frames in one call of a network; on a CPU 16 are the most. Tried out if not set.",
    )
    precision: Precision = Field(
        default="float32",
        description="What networks compute in; bfloat16 only where the processor has instructions for it, "
        "else float32 and a warning.",
    )
    threads: int = Field(
        default=0, ge=0, description="Threads of TensorFlow; 0 uses every core. Tried out if not set."
    )
    tune: bool = Field(
        default=True,
        description="Whether `threads` and `batch_size`, where not set, are tried out at the first start and "
        "remembered.",
    )
    lease_s: float = Field(
        default=300,
        ge=1,
        description="A worker that is silent for so long loses its claims (seconds); a live one renews them.",
    )
    max_attempts: int = Field(default=3, ge=1, description="Attempts after which a study is failed.")
    poll_s: float = Field(
        default=1.0, gt=0, description="How often to look for studies when there are none (seconds)."
    )
    fov_frames_per_clip: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=3,
        description="Frames of a clip in which the field of view is looked for; `all` is the paper's way.",
    )
    end_diastole: EndDiastole = Field(
        default="first_frames",
        description="Frames of a clip that hypertrophy is read from: the first two, as in the paper, "
        "or the two in which the left ventricle is largest.",
    )
    pool_frames_per_clip: int = Field(
        default=32, ge=0, description="Most apical four-chamber frames of a clip stored for the nightly pool."
    )
    runner: str | None = Field(
        default=None,
        description="Beam runner of the engine to work on, such as `FlinkRunner`; none: in this process.",
    )
    studies_in_flight: int = Field(
        default=32, ge=1, description="Most studies that an engine holds at once; then claims wait."
    )
    beam_options: list[str] = Field(default_factory=list, description="Options passed to Beam as they are.")
    spool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "spool", description="Folder of received instances."
    )
    results: RootedPlace = Field(
        default_factory=lambda data: data["root"] / "results",
        description="Folder of the tables, or `s3://bucket/prefix`.",
    )
    pool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "pool", description="Folder of the stored frames."
    )
    models: RootedPath = Field(
        default_factory=lambda data: data["root"] / "models", description="The model registry."
    )
    key_file: RootedPath = Field(
        default_factory=lambda data: data["root"] / "secret.key",
        description="File with the secret of the pseudonyms; made on first use, mode 0600.",
    )
    ledger_url: str = Field(
        default_factory=default_ledger_url, repr=False, description="SQLAlchemy URL of the ledger."
    )
