"""One part of a stored pipeline: a network, a text encoder, a tokenizer. Safetensors and data only, no code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..core.errors import BadInput, Damaged, SuffuseError
from ..core.files import read_json

DIFFUSERS = (
    "AutoencoderKL", "ControlNetModel", "DiTTransformer2DModel", "FluxTransformer2DModel", "PixArtTransformer2DModel",
    "SD3Transformer2DModel", "Transformer2DModel", "UNet2DConditionModel", "UNet2DModel",
)  # fmt: skip
"""Networks of diffusers that may be read; Transformer2DModel is the old name of DiT's and PixArt's."""

TRANSFORMERS = (
    "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection", "T5EncoderModel",
)  # fmt: skip
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of stock pipelines that no model here uses; they are not read."""

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CONVERT = "take the safetensors version, or, where you trust its author, let diffusers' save_pretrained write one"


def read_part(folder: Path, library: str, name: str, dtype: torch.dtype, variant: str | None) -> Any:
    """The part stored in `folder`, of class `name` of `library`.

    Raises:
        Damaged: a file is missing, cut off, or lacks weights; the message names it.
        BadInput: a class that is not known, or pickled weights.
    """
    if not folder.is_dir():
        raise Damaged(f"{folder} is missing; copy the whole model again")
    if name in TOKENIZERS:
        return _tokenizer(folder, name)
    if name not in (*DIFFUSERS, *TRANSFORMERS):
        known = ", ".join((*DIFFUSERS, *TRANSFORMERS, *TOKENIZERS))
        raise BadInput(f"{folder.name}: class {library}.{name} is unknown, and its code is not run; known: {known}")
    read_json(folder / "config.json")
    stem = "diffusion_pytorch_model" if name in DIFFUSERS else "model"
    variant = _weights(folder, stem, variant)
    import diffusers
    import transformers

    cls = getattr(diffusers if name in DIFFUSERS else transformers, name)
    try:
        with quiet():
            # The same option has another name in each of the two libraries.
            typed = {"torch_dtype": dtype} if name in DIFFUSERS else {"dtype": dtype}
            module, info = cls.from_pretrained(
                folder, variant=variant, use_safetensors=True, local_files_only=True, output_loading_info=True, **typed
            )
    except SuffuseError:
        raise
    except Exception as error:  # whatever a library raises on a bad file, the user needs its name
        raise Damaged(
            f"{folder}: cannot be read as {name} ({str(error).splitlines()[0]:.200}); copy it again"
        ) from error
    lost = sorted({*map(str, info["missing_keys"]), *(str(m[0]) for m in info["mismatched_keys"])})
    if lost:
        raise Damaged(
            f"{folder}: {len(lost)} weights are missing or do not fit config.json, such as {lost[0]!r}; copy it again"
        )
    return module.eval()


def check_weights(path: Path) -> None:
    """Refuse a safetensors file that is missing, cut off or altered in its header."""
    if not path.exists():
        raise Damaged(f"{path} is missing; copy the whole model again")
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error}); copy it again") from error


def _weights(folder: Path, stem: str, variant: str | None) -> str | None:
    """Check the files of a variant and return it; without the plain one, the only other variant is taken."""
    found = {_variant(p.name, stem) for p in folder.glob(f"{stem}*.safetensors*")}
    if variant is None and None not in found and len(found) == 1:
        variant = found.pop()
        found = {variant}
    if variant not in found:
        if found:
            have = ", ".join(repr(v) for v in sorted(map(str, found)))
            raise BadInput(f"variant={variant!r}: {folder} has variants {have}; give one of them")
        pickled = next((p for p in sorted(folder.iterdir()) if p.suffix in PICKLED), None)
        if pickled:
            raise BadInput(f"{pickled}: pickled weights can run code and are not read; {CONVERT}")
        raise Damaged(f"{folder / stem}.safetensors is missing; copy the whole model again")
    dot = f".{variant}" if variant else ""
    index = next(
        (
            p
            for p in (folder / f"{stem}.safetensors.index{dot}.json", folder / f"{stem}{dot}.safetensors.index.json")
            if p.exists()
        ),
        None,
    )
    names = sorted({*read_json(index).get("weight_map", {}).values()}) if index else [f"{stem}{dot}.safetensors"]
    for name in names:
        check_weights(folder / name)
    return variant


def _variant(name: str, stem: str) -> str | None:
    """ "fp16" of stem.fp16.safetensors, stem.fp16-00001-of-00002.safetensors and their index; else None."""
    rest = name.removeprefix(stem).replace(".safetensors", "").replace(".index", "").replace(".json", "")
    return rest.split("-0")[0].strip(".") or None


def _tokenizer(folder: Path, name: str) -> Any:
    import transformers

    clip = name.startswith("CLIP")
    whole = (folder / "tokenizer.json").exists()
    needed = ("vocab.json", "merges.txt") if clip else ("spiece.model",)
    missing = [n for n in needed if not whole and not (folder / n).exists()]
    if missing:
        raise Damaged(f"{folder / missing[0]} is missing; copy the whole model again")
    for n in ("tokenizer_config.json", *(("tokenizer.json",) if whole else ())):
        if (folder / n).exists():
            read_json(folder / n)
    try:
        with quiet():
            return getattr(transformers, name).from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise BadInput(
            f"{folder}: {str(error).strip().splitlines()[0]}; install sentencepiece, or add tokenizer.json"
        ) from error
    except Exception as error:
        raise Damaged(
            f"{folder}: cannot be read as {name} ({str(error).splitlines()[0]:.200}); copy it again"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of the libraries; what matters in them is raised as an error."""
    import diffusers.utils.logging as d
    import transformers.utils.logging as t

    libraries = (d, t)
    levels = [library.get_verbosity() for library in libraries]
    bars = t.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    t.disable_progress_bar()
    d.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            t.enable_progress_bar()
            d.enable_progress_bar()
