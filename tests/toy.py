"""Tiny seeded bundles: right in every shape, wrong in every prediction, ready in a second or two."""

import dataclasses
from pathlib import Path

import keras

from echo_models.bundle import write_bundle
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

TOY_PRESET = dataclasses.replace(
    PRESETS["small"],
    stem_pool=4,
    unet_filters=(4, 4),
    cnn_filters=(4, 4),
    cnn_dense=(8,),
    noise=20,
    generator_filters=4,
    discriminator_filters=(4, 4, 4, 4, 8),
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
