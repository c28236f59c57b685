"""Which processors have bfloat16, and what a network in it is."""

from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import bfloat16
from benchmarks.bfloat16 import bfloat16_flags, in_bfloat16, labels_of
from echo_models.networks import build_ensemble, build_unet, build_view_classifier
from tests.toy import TOY_PRESET


def test_a_flag_counts_if_every_processor_has_it() -> None:
    both = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu amx_bf16\n"
    assert bfloat16_flags(both) == {"amx_bf16"}
    assert bfloat16_flags("flags : fpu avx2 avx512f\n") == frozenset()
    assert bfloat16_flags("model name : of the avx512_bf16 kind\n") == frozenset()


def test_no_flag_counts_where_linux_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "CPUINFO", tmp_path / "cpuinfo")
    assert bfloat16.flags_here() == frozenset()
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    assert bfloat16.flags_here() == {"amx_bf16"}


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


def test_a_label_is_the_likeliest_view_or_a_side_of_one_half() -> None:
    assert labels_of("view", np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)).tolist() == [1, 0]
    assert labels_of("lvh", np.array([[0.5], [0.4]], np.float32)).tolist() == [True, False]
    masks = np.array([[[[0.1, 0.9]]], [[[0.7, 0.3]]]], np.float32)
    assert labels_of("fov", masks).tolist() == [[[True]], [[False]]]
