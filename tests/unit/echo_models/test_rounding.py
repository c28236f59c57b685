"""Which processors have bfloat16, and what a network in it is."""

from pathlib import Path

import keras
import numpy as np
import pytest

from echo_models import rounding
from echo_models.bundle import load_bundle_cached
from echo_models.networks import build_ensemble, build_unet, build_view_classifier
from echo_models.rounding import bfloat16_flags, computes_bfloat16, in_bfloat16
from tests.toy import TOY_PRESET, write_toy_bundle


def test_a_flag_counts_if_every_processor_has_it() -> None:
    both = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu amx_bf16\n"
    assert bfloat16_flags(both) == {"amx_bf16"}
    assert bfloat16_flags("flags : fpu avx2 avx512f\n") == frozenset()
    assert bfloat16_flags("model name : of the avx512_bf16 kind\n") == frozenset()


def test_no_flag_counts_where_linux_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "CPUINFO", tmp_path / "cpuinfo")
    assert rounding.flags_here() == frozenset()
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    assert rounding.flags_here() == {"amx_bf16"}


@pytest.mark.parametrize("is_ensemble", [False, True])
def test_a_copy_computes_in_bfloat16_and_keeps_weights_and_output(is_ensemble: bool) -> None:
    model = (
        build_ensemble([build_view_classifier(TOY_PRESET, name=f"member_{n}") for n in range(2)])
        if is_ensemble
        else build_unet(TOY_PRESET)
    )
    frames = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    copied = in_bfloat16(model)
    convolutions = [
        layer
        for network in (copied.layers if is_ensemble else [copied])
        if isinstance(network, keras.Model)
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "logits"
    ]
    assert {layer.compute_dtype for layer in convolutions} == {"bfloat16"}
    assert {str(weight.dtype) for weight in copied.weights} == {"float32"}
    exact, rounded = model.predict_on_batch(frames), copied.predict_on_batch(frames)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.05  # bfloat16 has 8 bits of precision


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_gpu_is_not_asked_further(has_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(rounding, "has_gpu", lambda: has_gpu)
    assert computes_bfloat16() is has_gpu


def test_a_bundle_is_kept_in_either_precision(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "view", "view")
    frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160), np.uint8)
    exact, rounded = (load_bundle_cached(folder, is_rounded=is_rounded) for is_rounded in (False, True))
    assert load_bundle_cached(folder) is exact
    assert load_bundle_cached(folder, is_rounded=True) is rounded
    difference = np.abs(exact.predict(frames) - rounded.predict(frames)).max()
    assert 0 < difference < 0.05
