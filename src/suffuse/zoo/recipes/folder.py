"""Writing a trained pipeline: diffusers' layout, float16 on disk, float32 where it is loaded."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TypeVar

from diffusers import DiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer

Part = TypeVar("Part", bound=nn.Module)


def half(part: Part) -> Part:
    """A copy in float16."""
    return copy.deepcopy(part).half()


def write(pipeline: DiffusionPipeline, folder: str | Path) -> None:
    """Save a pipeline whole or not at all.

    diffusers loads its parts in float32 whatever is stored; transformers needs to be told.
    """
    folder = Path(folder)
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    pipeline.save_pretrained(draft)
    for path in draft.glob("text_encoder*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    for path in draft.glob("tokenizer*"):
        save_vocabulary(pipeline.components[path.name], path)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def save_vocabulary(tokenizer: CLIPTokenizer, folder: str | Path) -> None:
    """Write vocab.json and merges.txt beside tokenizer.json, for readers that know only those."""
    tokenizer.backend_tokenizer.model.save(str(folder))
