import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from echo_models import networks, recipes
from echo_models.bundle import load_bundle
from echo_models.datasets import Plan
from echo_models.errors import TrainingError
from echo_models.manifest import CARD, MANIFEST, read_manifest
from echo_models.recipes import Order, Workshop
from echo_models.registry import Registry
from echo_models.verbs.models import models
from echo_models.verbs.train import _view_classifier, train
from tests.toy import TOY_PRESET, write_toy_bundle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    registry = Registry(tmp_path / "models")
    for seed, version in enumerate(("v1", "v2")):
        registry.publish(write_toy_bundle(tmp_path / version, "lvh", version=version, seed=seed), now=1.0)
        registry.promote("lvh", version, reason=f"promote {version}", now=2.0)
    return tmp_path


def run(root: Path, *arguments: str, command: object = models) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [*arguments, "--root", str(root)])  # type: ignore[arg-type]
    return result.exit_code, result.stdout, result.stderr


def test_list_marks_what_is_in_production(root: Path) -> None:
    code, out, _ = run(root, "list")
    assert (code, out) == (0, "  lvh   v1\n* lvh   v2\n")
    _, out, _ = run(root, "list", "--json")
    assert json.loads(out) == [
        {"task": "lvh", "version": "v1", "production": False},
        {"task": "lvh", "version": "v2", "production": True},
    ]


def test_list_of_nothing_says_how_to_get_something(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "list")
    assert (code, out) == (0, "")
    assert "installs those that ship" in err


def test_show_tells_contract_and_history(root: Path) -> None:
    _, out, _ = run(root, "show", "lvh", "--json")
    shown = json.loads(out)
    assert (shown["version"], shown["mask"], shown["classes"]) == ("v2", "lv", ["normal", "lvh"])
    assert [event["action"] for event in shown["history"]] == ["publish", "promote"]
    code, out, _ = run(root, "show", "lvh", "v1")
    assert code == 0
    assert "120 x 160, mask: lv" in out
    assert "promote v1" in out


def test_promote_and_rollback_change_production(root: Path) -> None:
    registry = Registry(root / "models")
    assert run(root, "promote", "lvh", "v1", "--reason", "fewer false alarms")[0] == 0
    assert registry.production("lvh") == "v1"
    assert registry.history("lvh")[-1].reason == "fewer false alarms"
    code, out, _ = run(root, "rollback", "lvh", "--json")
    assert (code, json.loads(out)) == (0, {"task": "lvh", "production": "v2"})


@pytest.mark.parametrize("arguments", [("show", "view"), ("show", "lvh", "v9"), ("promote", "lvh", "v9")])
def test_what_is_not_there_is_exit_code_3(root: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = run(root, *arguments)
    assert code == 3
    assert err.startswith("Error: ")


def test_what_is_refused_is_exit_code_1(root: Path) -> None:
    (root / "models" / "lvh" / "v1" / CARD).write_text("altered")
    code, _, err = run(root, "promote", "lvh", "v1")
    assert code == 1
    assert "altered" in err


def test_an_unknown_task_is_exit_code_2(root: Path) -> None:
    assert run(root, "show", "spleen")[0] == 2
    assert run(root, "spleen", command=train)[0] == 2


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, eager: None) -> None:  # noqa: ARG001 - asked for, not looked at
    """Networks that train in a second each, on frames that render in one."""
    plan = Plan(seed=0, subjects=16, views=("plax", "a4c"), frames_per_clip=1)
    monkeypatch.setitem(recipes.PLANS, "small", dict.fromkeys(recipes.RECIPES, plan))
    monkeypatch.setitem(networks.PRESETS, "small", TOY_PRESET)


@pytest.mark.usefixtures("tiny")
def test_train_all_writes_four_bundles_that_can_be_put_to_work(tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    code, text, err = run(
        tmp_path, "all", "--processes", "1", "--epochs", "1", "--out", str(out), "--json", command=train
    )
    assert code == 0, err
    written = [json.loads(line) for line in text.splitlines()]
    assert [line["name"].split("-")[0] for line in written] == ["fov", "view", "lv", "lvh"]
    registry = Registry(tmp_path / "models")
    assert len(registry.install_shipped(out)) == 4
    frames = np.zeros((1, 120, 160), np.uint8)
    assert load_bundle(registry.resolve("view")).predict(frames).shape == (1, 15)
    manifest = read_manifest(registry.resolve("lvh"))
    assert manifest.training["convolutions_from"].startswith("view-small-s0-")
    assert manifest.training["code_version"].startswith("echobeam ")
    card = (registry.resolve("fov") / CARD).read_text()
    assert "not a medical device" in card
    assert "synthetic" in card
    assert "`echobeam train fov --seed 0 --preset small --subjects 16 --epochs 1`" in card
    dice = read_manifest(registry.resolve("fov")).metrics["dice"]
    assert f"| dice | {dice.value:.3f} |" in card
    assert dice.control is not None


@pytest.mark.usefixtures("tiny")
def test_train_publishes_and_leaves_production_alone(root: Path) -> None:
    code, _, err = run(root, "gan", "--processes", "1", "--epochs", "1", command=train)
    assert code == 0, err
    registry = Registry(root / "models")
    assert registry.production("lvh") == "v2"
    made = registry.versions("lvh")[-1]
    assert made.startswith("gan-small-s0-")
    manifest = read_manifest(registry.resolve("lvh", made))
    assert (manifest.rows, manifest.columns, manifest.mask) == (110, 110, "fov")


@pytest.mark.usefixtures("tiny")
def test_calibrate_publishes_a_new_version_and_leaves_production_alone(root: Path) -> None:
    code, out, err = run(root, "calibrate", "lvh", "--subjects", "24", "--processes", "1")
    assert code == 0, err
    registry = Registry(root / "models")
    assert registry.production("lvh") == "v2"
    made = registry.versions("lvh")[-1]
    assert made.startswith("v2.c")
    assert made in out
    contract = read_manifest(registry.resolve("lvh", made)).calibration
    assert contract is not None
    assert contract.source == "phantom, seed 1001"  # the model's is 1
    _, shown, _ = run(root, "show", "lvh", made)
    assert "phantom, seed 1001" in shown
    code, out, _ = run(root, "calibrate", "lvh", "v1", "--subjects", "24", "--out", str(root / "b"), "--json")
    assert code == 0
    assert list((root / "b" / "lvh").iterdir()) == [Path(json.loads(out)["folder"])]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("lvh", "--seed", "1"), 2, "calibrate on others"),
        (("lvh", "--labels", "labels"), 2, "go together"),
        (("lvh", "v9"), 3, "no version 'v9'"),
        (("view",), 3, "no version of 'view' is in production"),
        (("fov",), 2, "fov"),
        (("lvh", "--coverage", "1"), 2, "coverage"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    root: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    received, _, err = run(root, "calibrate", *arguments)
    assert received == code
    assert words in err


@pytest.mark.usefixtures("tiny")
def test_too_few_subjects_for_a_calibration_are_exit_code_1(root: Path) -> None:
    code, _, err = run(root, "calibrate", "lvh", "--subjects", "10", "--processes", "1")
    assert code == 1
    assert "5 or more subjects for each class" in err


@pytest.mark.usefixtures("tiny")
def test_replace_leaves_one_version(tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    for seed in ("1", "2"):
        arguments = (
            "fov",
            "--subjects",
            "16",
            "--epochs",
            "1",
            "--seed",
            seed,
            "--out",
            str(out),
            "--replace",
        )
        assert run(tmp_path, *arguments, command=train)[0] == 0
    (folder,) = (out / "fov").iterdir()
    assert folder.name.startswith("small-s2-")
    assert (folder / MANIFEST).exists()


@pytest.mark.usefixtures("tiny")
def test_a_training_that_fails_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise TrainingError("the loss must stay finite")

    monkeypatch.setattr(recipes, "train_segmentation", diverge)
    code, _, err = run(tmp_path, "fov", command=train)
    assert (code, err) == (1, "Error: the loss must stay finite\n")


def test_an_order_is_named_by_all_that_decides_its_result() -> None:
    orders = [
        Order("fov"),
        Order("fov", seed=1),
        Order("fov", subjects=9),
        Order("fov", epochs=2),
        Order("lv"),
    ]
    versions = [order.version for order in orders]
    assert len(set(versions)) == len(versions)
    assert Order("fov", processes=2, work=Path("anywhere"), resume=True).version == versions[0]


@pytest.mark.usefixtures("tiny")
def test_resume_goes_on_and_its_absence_starts_over(tmp_path: Path) -> None:
    stages: list[str] = []
    workshop = Workshop(lambda step: stages.append(step.stage), lambda done, total: None)  # noqa: ARG005
    order = Order("fov", epochs=1, work=tmp_path)
    workshop.fill(order, tmp_path / "first")
    steps = len(stages)
    assert steps > 0
    workshop.fill(Order("fov", epochs=1, work=tmp_path, resume=True), tmp_path / "second")
    assert len(stages) == steps
    workshop.fill(order, tmp_path / "third")
    assert len(stages) == 2 * steps


def test_hypertrophy_starts_from_random_convolutions_where_no_view_model_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _view_classifier(tmp_path, None, "paper") is None
    assert "convolutions are random" in capsys.readouterr().err
