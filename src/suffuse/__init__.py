"""suffuse: ways of running, steering, shrinking, training and explaining diffusion models, as parts that compose."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "BadInput": "core.errors",
    "Cond": "core.cond",
    "Damaged": "core.errors",
    "Grid": "core.grid",
    "Images": "core.model",
    "Model": "core.model",
    "Refused": "core.errors",
    "Result": "core.engine",
    "Start": "core.engine",
    "State": "core.engine",
    "SuffuseError": "core.errors",
    "cite": "core.registry",
    "denoiser": "backbones",
    "from_pretrained": "loading.sources",
    "load": "loading.sources",
    "load_method": "core.fitted",
    "recipe_of": "images",
    "replay": "rebuild",
    "sample": "core.engine",
    "save_method": "core.fitted",
    "trace": "core.engine",
    "tuned": "tuning",
}
"""Name -> module; imported on first use, because importing torch takes seconds."""

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
