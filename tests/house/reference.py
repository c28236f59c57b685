"""Loads `docs/generate.py`, which is a program and not part of a package."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("generate", Path(__file__).parents[2] / "docs" / "generate.py")
if _SPEC is None or _SPEC.loader is None:
    raise ImportError("docs/generate.py cannot be loaded")
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)
