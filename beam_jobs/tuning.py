"""How many threads, and how many frames a network is given at a time: tried out at a worker's first start.

What is fastest depends on the processor, its cores and the networks. Each number of threads is tried in a
process of its own, since TensorFlow reads it when it is imported. What was found is remembered in the root,
by machine and bundles; what is set is never tried.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import structlog

from beam_jobs.records import Precision
from beam_jobs.settings import WorkerSettings
from echo_models.errors import ModelsError
from echo_models.manifest import MANIFEST, TASKS, sha256_of
from echo_models.registry import Registry

FILE: Final = "run/tuning.json"
"""What was found, below the root."""

CPU_SIZES: Final = (4, 8, 16)
"""Frames at a time: on a CPU more are no faster, and where fewer are as fast, fewer run on padding."""

GPU_SIZES: Final = (32, 64, 128, 256)

SHARES: Final[Mapping[str, float]] = {"fov": 0.06, "view": 1.0, "lv": 0.3, "lvh": 0.02}
"""How many frames of a hundred each network sees of an ordinary archive, over a hundred."""

WORTH: Final = 1.04
"""So much faster must more frames at a time be, or fewer threads: a trial is no finer than that."""

_ROUNDS: Final = 3
_TRIAL_S: Final = 300.0
_REMEMBERED: Final = 8
_THREADS: Final = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

_log = structlog.get_logger(__name__)


def tuned(settings: WorkerSettings) -> WorkerSettings:
    """Give settings with what is fastest on this machine where `threads` and `batch_size` are not set.

    On an engine the networks run elsewhere, so nothing is tried; nor where no model is in production yet,
    or a trial fails: then both stay as they are.
    """
    unset = {"threads", "batch_size"} - settings.model_fields_set
    if not unset or not settings.tune or settings.runner is not None:
        return settings
    registry = Registry(settings.models)
    try:
        registry.install_shipped()
        key = _key(settings.precision, [registry.resolve(task) for task in TASKS])
    except ModelsError:
        return settings  # the worker will say so
    file = settings.root / FILE
    known = _read(file)
    found = known.get(key) or _try_out(settings.models, settings.precision)
    if not found:
        return settings
    if key not in known:
        _write(file, {**dict(list(known.items())[1 - _REMEMBERED :]), key: found})
    return settings.model_copy(update={name: found[name] for name in unset})


def use_threads(threads: int, environment: dict[str, str] | None = None) -> None:
    """Set the number of TensorFlow's threads before it is imported; 0 leaves it to it."""
    if threads:
        (os.environ if environment is None else environment).update(dict.fromkeys(_THREADS, str(threads)))


def best(rates: Mapping[int, Mapping[int, float]]) -> dict[str, int]:
    """Choose the threads and the batch size that are worth it.

    Args:
        rates: frames a second, by threads and batch size.

    Returns:
        `threads` and `batch_size`: of those within `WORTH` of the fastest the most threads, since decoding
        needs little beside them, and the fewest frames.
    """
    least = max(rate for sizes in rates.values() for rate in sizes.values()) / WORTH
    threads = max(count for count, sizes in rates.items() if max(sizes.values()) >= least)
    size = min(size for size, rate in rates[threads].items() if rate >= least)
    return {"threads": threads, "batch_size": size}


def measure(
    models: Path, sizes: Sequence[int] | None = None, *, precision: Precision = "float32"
) -> dict[int, float]:
    """Run the networks in production on noise.

    Args:
        models: folder of the registry.
        precision: what they compute in.
        sizes: frames at a time to try; None for those that suit what Keras runs on.

    Returns:
        frames a second, each network seeing its share of them, by frames at a time.
    """
    import numpy as np  # noqa: PLC0415 - in a process of its own, see `_try_out`

    from beam_jobs.model_handlers import load_network  # noqa: PLC0415
    from echo_models.backend import has_gpu  # noqa: PLC0415
    from echo_models.preprocessing import COLUMNS, ROWS  # noqa: PLC0415

    bundles = {task: load_network(models, task, precision) for task in TASKS}
    rates = {}
    for size in sizes or (GPU_SIZES if has_gpu() else CPU_SIZES):
        frames = np.random.default_rng(0).integers(0, 256, (size, ROWS, COLUMNS)).astype(np.uint8)
        frame_s = 0.0
        for task, bundle in bundles.items():
            times = []
            for _ in range(_ROUNDS + 1):  # the first compiles
                start = perf_counter()
                bundle.predict_known(frames, batch_size=size)
                times.append(perf_counter() - start)
            frame_s += SHARES[task] * min(times[1:]) / size
        rates[size] = 1 / frame_s
    return rates


def _try_out(models: Path, precision: Precision) -> dict[str, int] | None:
    """Measure with all cores and with half of them, each in a process of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _log.info("tuning", cores=cores)
    rates = {}
    for threads in sorted({cores, max(1, cores // 2)}):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        use_threads(threads, environment)
        try:
            tried = subprocess.run(  # noqa: S603 - this very module
                [sys.executable, "-m", __name__, str(models), precision],
                capture_output=True,
                check=True,
                timeout=_TRIAL_S,
                env=environment,
            )
            rates[threads] = {int(size): float(rate) for size, rate in json.loads(tried.stdout).items()}
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            _log.warning("tuning_failed", threads=threads, error=type(error).__name__)
            return None
    found = best(rates)
    _log.info("tuned", **found)
    return found


def _key(precision: Precision, bundles: Sequence[Path]) -> str:
    """Tell machine, libraries and bundles apart from all others."""
    what = [
        platform.machine(),
        _processor(),
        os.cpu_count(),
        sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*")),
        os.environ.get("KERAS_BACKEND"),
        precision,
        version("keras"),
        version("tensorflow"),
        [sha256_of(folder / MANIFEST) for folder in bundles],
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def _read(file: Path) -> dict[str, dict[str, int]]:
    """Read what is remembered; what cannot be understood is as if it were not there."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: {name: int(found[name]) for name in ("threads", "batch_size")}
            for key, found in known.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(file: Path, known: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as written:
        json.dump(known, written, indent=2)
    Path(written.name).replace(file)


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(
            measure(Path(sys.argv[1]), precision="bfloat16" if "bfloat16" in sys.argv[2:] else "float32")
        )
    )
