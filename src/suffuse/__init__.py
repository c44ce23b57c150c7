"""suffuse: published ways of running, steering, shrinking, training and explaining diffusion models, as parts that compose."""

from __future__ import annotations

__version__ = "0.1.0"
