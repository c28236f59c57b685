"""The semi-supervised GAN on something public: Fashion-MNIST, beside its network trained on labels alone.

10, 25, 100 and 400 labels a class, the other training pictures without labels, several seeds. The GAN, and
its discriminator on the labels alone, have the same network, labels, order, augmentation and number of steps.
A run that was killed goes on: a result that is there is not made again.

    python -m benchmarks.fashion_mnist [--quick] [--seeds N] [--processes N] [--out FOLDER] [--report FILE]

The data are four files of the Debian package dataset-fashion-mnist; --data names another folder with them.
"""

import argparse
import dataclasses
import gzip
import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

DATA: Final = Path("/usr/share/datasets/fashion-mnist")
LABELS: Final = (10, 25, 100, 400)
ARMS: Final = {
    "supervised": "labels alone",
    "sigmoid": "GAN, sigmoid head",
    "k_plus_1": "GAN, K+1 head",
}
CLASSES: Final = 10
FIRST_SEED: Final = 10
"""Smaller ones are for trying settings."""

VALIDATION: Final = 1000
"""Training pictures of the last ones, never learned from: for the curves alone."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What every arm has.

    Attributes:
        epochs: after each the validation pictures are classified.
        steps: of an epoch.
        batch_size: pictures of each pass of a step.
        learning_rate: of Adam.
        beta_1: of Adam, the authors' code's.
        ema_decay: share of the moving average of weights that a step keeps; every arm is measured with it.
    """

    epochs: int = 4
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 0.001
    beta_1: float = 0.7
    ema_decay: float = 0.99


@dataclass(frozen=True, slots=True)
class Arm:
    """One training.

    Attributes:
        name: one of `ARMS`.
        labels: of each class.
        seed: of everything random.
    """

    name: str
    labels: int
    seed: int

    @property
    def stem(self) -> str:
        """Name its files."""
        return f"{self.name}-{self.labels:03d}-s{self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """[N, 28, 28], uint8, and their classes, [N], int64."""

    pictures: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]


def read(folder: Path, part: str) -> Pictures:
    """Read one part, "train" or "t10k", from its two IDX files (16 and 8 bytes of header)."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return Pictures(pictures, classes)


def choose(classes: npt.NDArray[np.int64], labels: int, seed: int) -> npt.NDArray[np.intp]:
    """Choose as many of each class: indices. More labels of a seed include its fewer."""
    order = np.random.default_rng(seed).permutation(len(classes))
    return np.concatenate([order[classes[order] == k][:labels] for k in range(CLASSES)])


def run_arm(arm: Arm, budget: Budget, data: Path, out: Path) -> None:
    """Train one arm, measure it on the 10,000 test pictures, keep what came of it."""
    import tensorflow as tf  # noqa: PLC0415 - threads are counted before anything runs

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from echo_models.augment import Augmentation  # noqa: PLC0415
    from echo_models.challengers import SUPERVISED, train_challenger  # noqa: PLC0415
    from echo_models.gan import GanOptions, GanSchedule, classify, train_gan  # noqa: PLC0415
    from echo_models.networks import PRESETS  # noqa: PLC0415

    train, test = read(data, "train"), read(data, "t10k")
    known = choose(train.classes[:-VALIDATION], arm.labels, arm.seed)
    validation = train.pictures[-VALIDATION:], train.classes[-VALIDATION:]
    common: dict[str, Any] = {
        "classes": CLASSES,
        "preset": dataclasses.replace(
            PRESETS["small"],
            gan_size=28,
            noise=74,
            generator_filters=8,
            discriminator_filters=(8, 16, 32),
            # It costs so narrow a network more than it saves, with labels alone as with the others.
            input_dropout=0.0,
            block_dropout=0.0,
        ),
        "schedule": GanSchedule(
            budget.epochs, budget.batch_size, budget.learning_rate, budget.beta_1, max_steps=budget.steps
        ),
        "validation": validation,
        "seed": arm.seed,
        "folder": out / "work" / arm.stem,
    }
    given = train.pictures[known], train.classes[known], train.pictures[:-VALIDATION]
    # Garments move; they stand upright.
    augmentation = Augmentation(rotation_degrees=10, shift_ratio=0.1)
    started = time.process_time()
    trained: Any
    if arm.name == "supervised":
        trained = train_challenger(
            SUPERVISED, *given, augmentation=augmentation, ema_decay=budget.ema_decay, **common
        )
    else:
        head: Any = arm.name
        gan = GanOptions(head=head, augmentation=augmentation, ema_decay=budget.ema_decay)
        trained = train_gan(*given, options=gan, **common)
    seconds = time.process_time() - started
    answers = classify(trained.classifier, test.pictures, batch_size=500).argmax(axis=1)
    result = {
        **dataclasses.asdict(arm),
        "budget": dataclasses.asdict(budget),
        "accuracy": float((answers == test.classes).mean()),
        "parameters": trained.classifier.count_params(),
        "cpu_s": round(seconds, 1),
        "log": trained.log,
    }
    temporary = out / f".{arm.stem}.json"
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(out / f"{arm.stem}.json")


def run_all(arms: Sequence[Arm], budget: Budget, data: Path, out: Path, processes: int) -> None:
    """Make the results that are not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    missing = [arm for arm in arms if not _is_made(arm, budget, out)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for arm, done in [(arm, pool.submit(run_arm, arm, budget, data, out)) for arm in missing]:
            done.result()
            print(f"{arm.stem}: {_result(arm, out)['accuracy']:.3f}", flush=True)


def _is_made(arm: Arm, budget: Budget, out: Path) -> bool:
    path = out / f"{arm.stem}.json"
    return path.exists() and _result(arm, out)["budget"] == dataclasses.asdict(budget)


def _result(arm: Arm, out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / f"{arm.stem}.json").read_text())
    return result


# --- report -----------------------------------------------------------------------------------------


def mean_and_half_width(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Give the mean over seeds and half of its 95 % interval by Student's t; nan of a single seed."""
    from scipy import stats  # noqa: PLC0415 - only the report wants it

    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * spread)


def arms_of(labels: Sequence[int], seeds: int) -> list[Arm]:
    """List what is trained, seed by seed; the second head where labels are fewest, which tells enough."""
    return [
        Arm(name, count, FIRST_SEED + seed)
        for seed in range(seeds)
        for count in labels
        for name in ARMS
        if name != "sigmoid" or count == labels[0]
    ]


def table(arms: Sequence[Arm], out: Path) -> list[str]:
    """Give accuracies by labels a class, and how much better each GAN is than its network on labels alone.

    Differences are taken seed by seed: the arms of a seed have the same labels.
    """
    lines = [
        "| labels a class | " + " | ".join(ARMS.values()) + " | sigmoid - alone | K+1 - alone |",
        "|---|" + "---|" * (len(ARMS) + 2),
    ]
    for count in sorted({arm.labels for arm in arms}):
        found = {
            name: np.array([_result(a, out)["accuracy"] for a in arms if (a.name, a.labels) == (name, count)])
            for name in ARMS
        }
        cells = [_cell("{:.1f} ± {:.1f}", values) for values in found.values()]
        for name in ("sigmoid", "k_plus_1"):
            gains = found[name] - found["supervised"] if len(found[name]) else found[name]
            cells.append(_cell("{:+.1f} ± {:.1f}", gains))
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def _cell(form: str, values: npt.NDArray[np.float64]) -> str:
    return form.format(*mean_and_half_width(100 * values)) if len(values) else "-"


PAGE: Final = """\
# The semi-supervised GAN on Fashion-MNIST

Made by `{command}` with {code}, Keras on {backend}, in {minutes:.0f} minutes of one core; machine: 2 cores,
24 GiB, no GPU.

Fashion-MNIST is public and has nothing to do with hearts: it says whether the method does what it should.
Accuracy in % on its 10,000 test pictures, mean over {seeds} seeds (of labels, weights and order), with the
95 % interval of that mean by Student's t. Labels alone: the GAN's discriminator ({parameters:,} parameters)
with the same labels, augmentation (10 degrees, 10 % of height and width), batches ({batch_size}), Adam
({learning_rate}) and number of steps ({steps:,}). The GANs have the other training pictures as well, without
their labels. Every arm is measured with a moving average of its weights ({ema_decay}) after its last step.
Networks are those of the preset `small` for 28 x 28: the two levels between 110 and 28 are left out, and
dropout, too. Differences are taken seed by seed, since the arms of a seed have the same labels. Dropout and
the average were settled before, for the arms alike, with seeds 0 and 1, 10 labels and test pictures; the
seeds here are others, from {first_seed} on. The number of steps is what an hour of two cores has room for.

{table}

![Curves]({stem}-curves.png)

{caption}. Accuracy by epoch is that on {validation:,} training pictures that no arm learned from.

![Generated pictures]({stem}-generated.png)

Generated by the same GAN after epochs {epochs}, from the same noise: a row for each one-hot class of the
noise, which the generator is free to ignore.
"""


def write_report(path: Path, arms: Sequence[Arm], out: Path) -> None:
    """Write the page, and its pictures beside it."""
    import keras  # noqa: PLC0415 - only the report wants it

    from echo_models.gan.curves import draw_curves, join_grids  # noqa: PLC0415
    from echo_models.recipes import code_version  # noqa: PLC0415

    shown = next(arm for arm in arms if arm.name == "k_plus_1")
    seeds = len({arm.seed for arm in arms})
    result = _result(shown, out)
    grids = sorted((out / "work" / shown.stem / "gan_generated").iterdir())
    by_epoch = [grids[0], grids[min(2, len(grids) - 1)], grids[-1]]
    join_grids(by_epoch, path.with_name(f"{path.stem}-generated.png"))
    caption = f"Fashion-MNIST, {shown.labels} labels a class, {ARMS[shown.name]}, seed {shown.seed}"
    draw_curves(result["log"], path.with_name(f"{path.stem}-curves.png"), caption=caption)
    page = PAGE.format(
        command=f"python -m benchmarks.fashion_mnist --seeds {seeds} --report docs/reports/{path.name}",
        code=code_version(),
        backend=keras.backend.backend(),
        minutes=sum(_result(arm, out)["cpu_s"] for arm in arms) / 60,
        seeds=seeds,
        parameters=result["parameters"],
        steps=result["budget"]["epochs"] * result["budget"]["steps"],
        **{name: result["budget"][name] for name in ("batch_size", "learning_rate", "ema_decay")},
        first_seed=FIRST_SEED,
        table="\n".join(table(arms, out)),
        stem=path.stem,
        caption=caption,
        validation=VALIDATION,
        epochs=", ".join(str(int(grid.stem.partition("_")[2])) for grid in by_epoch),
    )
    path.write_text(page, encoding="utf-8")


def main() -> None:
    """Run what is missing, print the table, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 labels, two seeds, a few steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--data", type=Path, default=DATA)
    kept = Path(tempfile.gettempdir()) / "echobeam-fashion-mnist"
    parser.add_argument("--out", type=Path, default=kept, help=f"where results are kept; by default {kept}")
    parser.add_argument("--report", type=Path, help="write this page and its pictures")
    options = parser.parse_args()
    if not options.data.is_dir():
        lacking = f"{options.data} must hold Fashion-MNIST; install dataset-fashion-mnist, or give --data"
        if options.quick:
            print(f"skipped: {lacking}")
            return
        parser.error(lacking)
    labels: tuple[int, ...] = LABELS
    seeds, budget = options.seeds, Budget()
    if options.quick:
        labels, seeds, budget = LABELS[:1], 2, Budget(epochs=2, steps=3)
    arms = arms_of(labels, seeds)
    run_all(arms, budget, options.data, options.out, options.processes)
    print("\n".join(table(arms, options.out)))
    if options.report is not None:
        write_report(options.report, arms, options.out)


if __name__ == "__main__":
    main()
