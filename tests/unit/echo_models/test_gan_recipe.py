"""`echobeam train gan` with what it may be told, on toy networks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from echo_models import networks, recipes
from echo_models.bundle import load_bundle
from echo_models.datasets import Plan
from echo_models.manifest import CARD
from echo_models.verbs.train import train
from echo_models.views import VIEWS
from tests.toy import TOY_PRESET


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, eager: None) -> None:  # noqa: ARG001 - asked for, not looked at
    plan = Plan(seed=0, subjects=8, views=("plax", "a4c"), frames_per_clip=1)
    monkeypatch.setitem(recipes.PLANS, "small", dict.fromkeys(recipes.RECIPES, plan))
    preset = dataclasses.replace(TOY_PRESET, gan_size=28, discriminator_filters=(4, 4, 8))
    monkeypatch.setitem(networks.PRESETS, "small", preset)


def run(root: Path, *arguments: str) -> tuple[int, str, str]:
    out = ("--root", str(root), "--out", str(root / "bundles"), "--processes", "1", "--epochs", "1")
    result = CliRunner().invoke(train, [*arguments, *out])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("tiny")
def test_the_gan_learns_views_with_what_it_is_told(tmp_path: Path) -> None:
    told = "--gan-task view --head k_plus_1 --ema-decay 0.9 --ensemble 2"
    code, _, err = run(tmp_path, "gan", *told.split())
    assert code == 0, err
    (folder,) = (tmp_path / "bundles" / "view").iterdir()
    bundle = load_bundle(folder)
    assert folder.name.startswith("gan-small-s0-")
    assert (bundle.manifest.classes, bundle.manifest.mask) == (VIEWS, "fov")
    assert bundle.predict(np.zeros((2, 120, 160), np.uint8)).shape == (2, len(VIEWS))
    facts = bundle.manifest.training
    assert {name: facts["gan"][name] for name in ("head", "ema_decay", "ensemble")} == {
        "head": "k_plus_1",
        "ema_decay": 0.9,
        "ensemble": 2,
    }
    assert [(entry["member"], entry["epoch"]) for entry in facts["log"]] == [(1, 1), (2, 1)]
    assert all(0 <= entry["accuracy"] <= 1 for entry in facts["log"])
    assert f"`echobeam train gan --seed 0 --preset small --subjects 8 --epochs 1 {told}`" in (
        folder / CARD
    ).read_text(encoding="utf-8")
    (work,) = (tmp_path / "training").glob("gan_view-*")
    assert {path.name for path in work.iterdir()} >= {"gan_member_1.csv", "gan_member_2_generated"}


@pytest.mark.parametrize("option", ["--gan-task view", "--head k_plus_1", "--ema-decay 0.9", "--ensemble 2"])
def test_what_is_of_the_gan_is_refused_for_another_network(tmp_path: Path, option: str) -> None:
    code, _, err = run(tmp_path, "view", *option.split())
    assert code == 2
    assert "are of `train gan`; received view" in err
