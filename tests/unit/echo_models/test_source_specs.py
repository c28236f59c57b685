"""`echobeam train` on public sets and on labels of one's own, on toy data."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from echo_models import networks, recipes
from echo_models.datasets import Plan
from echo_models.errors import DatasetError
from echo_models.labels import Label, write_labels
from echo_models.manifest import CARD, read_manifest
from echo_models.source_specs import KINDS, SourceSpec
from echo_models.verbs.train import train
from tests.toy import TOY_PRESET, toy_frames
from tests.unit.echo_models import public_sets as made
from tests.unit.echo_models.public_sets import write_site


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, eager: None) -> None:  # noqa: ARG001 - asked for, not looked at
    """Networks that train in a second each."""
    plan = Plan(seed=0, subjects=16, views=("a4c",), frames_per_clip=1)
    monkeypatch.setitem(recipes.PLANS, "small", dict.fromkeys(recipes.RECIPES, plan))
    monkeypatch.setitem(networks.PRESETS, "small", TOY_PRESET)


def run(root: Path, *arguments: str) -> tuple[int, str]:
    out = ("--root", str(root), "--out", str(root / "bundles"), "--processes", "1", "--epochs", "1")
    result = CliRunner().invoke(train, [*arguments, *out])
    return result.exit_code, result.stderr


def only_bundle(root: Path, task: str) -> Path:
    (folder,) = (root / "bundles" / task).iterdir()
    return folder


def test_a_source_is_written_as_it_is_read() -> None:
    assert SourceSpec.parse("camus:/data/a:b") == SourceSpec("camus", Path("/data/a:b"))
    assert SourceSpec.parse("camus:/data").option == "--dataset camus:FOLDER"
    assert SourceSpec.parse("phantom").option == "--dataset phantom"
    assert SourceSpec("labels", Path("l"), Path("f")).option == "--labels LABELS --frames FRAMES"
    for text in ("camus", "camus:", "mnist:/data", "phantom:/data", "phantom:", "labels:/data"):
        with pytest.raises(ValueError, match="expected phantom, or KIND:PATH"):
            SourceSpec.parse(text)
    with pytest.raises(DatasetError, match="need the frames"):
        SourceSpec("labels", Path("l")).load(toy_frames)
    assert SourceSpec("phantom").load(toy_frames).kind == "phantom"
    assert {"phantom", "frames", "camus"} <= set(KINDS)


@pytest.mark.usefixtures("tiny")
def test_a_public_set_trains_instead_of_the_phantom(tmp_path: Path) -> None:
    for number in range(1, 9):
        made.write_camus_patient(tmp_path / "camus", f"patient{number:04}")
    code, err = run(tmp_path, "lv", "--dataset", f"camus:{tmp_path / 'camus'}")
    assert code == 0, err
    folder = only_bundle(tmp_path, "lv")
    training = read_manifest(folder).training
    (source,) = training["sources"]
    assert (training["source"], training["plan"]) == ("camus", None)
    assert (source["kind"], source["subjects"], source["frames"]) == ("camus", 8, 32)
    assert source["labels"] == {"view": 32, "hypertrophy": 0, "fov": 0, "lv": 32}
    assert source["lv_border"] == "epicardium"
    card = (folder / CARD).read_text()
    assert "`echobeam train lv --seed 0 --preset small --epochs 1 --dataset camus:FOLDER`" in card
    assert "| camus | 32 | 8 | view 32, lv 32 |" in card
    assert "synthetic" not in card
    assert str(tmp_path) not in card + str(training)


@pytest.mark.usefixtures("tiny")
def test_labels_of_ones_own_are_mixed_with_the_phantom(tmp_path: Path) -> None:
    labels, frames = write_site(tmp_path)
    code, err = run(
        tmp_path, "view", "--labels", str(labels), "--frames", str(frames), "--dataset", "phantom"
    )
    assert code == 0, err
    training = read_manifest(only_bundle(tmp_path, "view")).training
    assert [(source["kind"], source["subjects"]) for source in training["sources"]] == [
        ("phantom", 16),
        ("labels", 12),
    ]
    assert training["plan"]["subjects"] == 16


@pytest.mark.usefixtures("tiny")
def test_the_gan_also_learns_from_frames_without_labels(tmp_path: Path) -> None:
    labels, frames = write_site(tmp_path)
    more = tmp_path / "more.npz"
    np.savez(more, frames=toy_frames(subjects=4, seed=9).frames)
    arguments = ("--labels", str(labels), "--frames", str(frames), "--dataset", f"frames:{more}")
    code, err = run(tmp_path, "gan", *arguments)
    assert code == 0, err
    first = only_bundle(tmp_path, "lvh")
    assert read_manifest(first).training["source"] == "frames+labels"
    np.savez(more, frames=toy_frames(subjects=4, seed=10).frames)
    assert run(tmp_path, "gan", *arguments)[0] == 0
    assert len(list((tmp_path / "bundles" / "lvh").iterdir())) == 2  # other data, another version


@pytest.mark.usefixtures("tiny")
def test_data_without_the_labels_that_a_task_needs_is_refused(tmp_path: Path) -> None:
    for number in range(1, 9):
        made.write_camus_patient(tmp_path / "camus", f"patient{number:04}")
    for task, message in (
        ("fov", "each part of the split needs frames with an outline of the field of view; training"),
        ("lvh", "needs a4c frames with a grade of hypertrophy and an outline"),
        ("gan", "needs a4c frames with a grade"),
    ):
        code, err = run(tmp_path, task, "--dataset", f"camus:{tmp_path / 'camus'}")
        assert code == 1
        assert message in err


def test_faults_of_labels_and_of_usage_are_told(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", [Label("s", "i", 0, "ana", 0, view="a4c")])
    broken = (tmp_path / "labels.csv").read_text().replace("a4c", "4ac")
    (tmp_path / "labels.csv").write_text(broken)
    arguments = ("view", "--labels", str(tmp_path / "labels.csv"))
    code, err = run(tmp_path, *arguments, "--frames", str(tmp_path))
    assert (code, "row 2, column view" in err) == (1, True)
    code, err = run(tmp_path, *arguments)
    assert (code, "go together" in err) == (2, True)
    code, err = run(tmp_path, "view", "--dataset", "mnist:x")
    assert (code, "expected phantom, or KIND:PATH" in err) == (2, True)
