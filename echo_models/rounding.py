"""Networks that compute in bfloat16: which processors can, and how one is made of a network in float32.

A processor must have instructions for it (`avx512_bf16`, `amx_bf16`), else TensorFlow computes by way of
float32 and is slower; the flags that Linux tells are looked at.
"""

from pathlib import Path
from typing import Final

import keras

from echo_models.backend import has_gpu

FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})
EXACT: Final = ("logit", "probabilit")
"""Beginnings of the names of layers that compute in float32, as in training (`echo_models.networks`)."""

CPUINFO: Final = Path("/proc/cpuinfo")


def computes_bfloat16() -> bool:
    """Say whether bfloat16 is worth it here: on such a processor, or on a GPU, which is not asked further."""
    return bool(flags_here()) or has_gpu()


def bfloat16_flags(cpuinfo: str) -> frozenset[str]:
    """Find the instructions for bfloat16 that every processor has.

    Args:
        cpuinfo: the text of /proc/cpuinfo.
    """
    of_each = [
        FLAGS.intersection(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() == "flags"
    ]
    return frozenset.intersection(*of_each) if of_each else frozenset()


def flags_here() -> frozenset[str]:
    """Find the instructions of this machine; none where Linux does not tell."""
    try:
        return bfloat16_flags(CPUINFO.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return frozenset()


def in_bfloat16(model: keras.Model) -> keras.Model:
    """Copy a network into one that computes in bfloat16; weights, logits and outputs stay float32."""
    last = model.layers[-1].name

    def copy(layer: keras.Layer) -> keras.Layer:
        is_exact = layer.name == last or layer.name.startswith(EXACT)
        policy = "float32" if is_exact else "mixed_bfloat16"
        return layer.__class__.from_config({**layer.get_config(), "dtype": policy})

    copied = keras.models.clone_model(model, clone_function=copy, recursive=True)
    copied.set_weights(model.get_weights())
    return copied
