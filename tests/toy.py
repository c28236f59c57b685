"""Tiny seeded bundles: right in every shape, wrong in every prediction, ready in a second or two."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from echo_models.bundle import write_bundle
from echo_models.datasets import Known, LabeledFrames
from echo_models.manifest import Mask
from echo_models.networks import (
    PRESETS,
    build_ensemble,
    build_hypertrophy_classifier,
    build_unet,
    build_view_classifier,
)
from echo_models.registry import Registry
from echo_models.views import VIEWS

# Narrow, and without dropout: with so few units it would take most of what they say.
TOY_PRESET = dataclasses.replace(
    PRESETS["small"],
    stem_pool=4,
    unet_filters=(8, 16),
    unet_dropout=0.0,
    cnn_filters=(8, 8),
    cnn_dense=(16,),
    view_dropout=0.0,
    hypertrophy_dropout=0.0,
    noise=20,
    generator_filters=4,
    discriminator_filters=(8, 8, 8, 8, 16),
)


def write_toy_bundle(folder: Path, task: str, *, version: str = "toy", seed: int = 0) -> Path:
    """Write one untrained bundle whose weights come from a seed."""
    keras.utils.set_random_seed(seed)
    classes: tuple[str, ...]
    mask: Mask
    match task:
        case "fov":
            model, classes, mask = build_unet(TOY_PRESET), ("outside", "inside"), "none"
        case "lv":
            model, classes, mask = build_unet(TOY_PRESET), ("outside", "inside"), "fov"
        case "view":
            members = [build_view_classifier(TOY_PRESET, name=f"member_{n}") for n in range(3)]
            model, classes, mask = build_ensemble(members), VIEWS, "fov"
        case _:
            model, classes, mask = build_hypertrophy_classifier(TOY_PRESET), ("normal", "lvh"), "lv"
    return write_bundle(
        folder,
        model,
        task=task,
        version=version,
        classes=classes,
        mask=mask,
        training={"seed": seed},
        metrics={},
        card="# Untrained toy\n",
    )


def write_toy_registry(path: Path) -> Registry:
    """Make a registry with an untrained bundle of each task in production."""
    registry = Registry(path)
    for seed, task in enumerate(("fov", "view", "lv", "lvh")):
        folder = write_toy_bundle(path.parent / f"{path.name}-bundles" / task, task, seed=seed)
        registry.publish(folder, now=0.0)
        registry.promote(task, "toy", reason="toy", now=0.0)
    return registry


def toy_frames(subjects: int = 12, frames_each: int = 4, seed: int = 0) -> LabeledFrames:
    """Draw frames a small network can learn at once: a bright half says the view, a disc is the ventricle.

    The field of view is all but a border above and at the left; hypertrophy is a brighter disc; views are
    a4c and plax.
    """
    rng = np.random.default_rng(seed)
    count = subjects * frames_each
    who = np.repeat(np.arange(subjects), frames_each)
    frames = rng.integers(0, 40, (count, 120, 160), np.uint8)
    rows, columns = np.mgrid[:120, :160]
    corners = rng.integers(0, 60, (2, count, 1, 1))
    fov = (rows > corners[0]) & (columns > corners[1])
    centres = np.array([60, 80]) + rng.integers(-10, 11, (count, 2))
    discs = fov & ((rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2 < 25**2)
    views = np.where(np.arange(count) % 2, VIEWS.index("a4c"), VIEWS.index("plax"))
    hypertrophy = who % 2 == 1
    frames[fov] += 60
    a4c = views == VIEWS.index("a4c")
    frames[a4c, :60] += 50
    frames[discs & hypertrophy[:, None, None]] += 90
    frames[discs & ~hypertrophy[:, None, None]] = 10
    known = np.full(count, Known.ALL, np.uint8)
    return LabeledFrames(frames, fov, discs & a4c[:, None, None], views, hypertrophy, who, known)
