"""Repositories on the Hugging Face hub, through huggingface_hub and its cache; only when the user names one."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.errors import BadInput, Damaged
from .parts import UNUSED


def fetch(repository: str, variant: str | None = None) -> Path:
    """Folder of a repository's pipeline; only the files that are read are downloaded.

    Raises:
        BadInput: no such repository, no access to it, or no connection and nothing in the cache.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        index = Path(hf_hub_download(repository, "model_index.json"))
        parts = [k for k, v in json.loads(index.read_bytes()).items() if isinstance(v, list) and k not in UNUSED]
        end = f".{variant}" if variant else ""
        wanted = [
            f"{part}/{kind}"
            for part in parts
            for kind in ("*.json", "*.txt", "*.model", f"*{end}.safetensors", f"*{end}-0*.safetensors")
        ]
        # Without a variant, the other variants of the same weights are not wanted.
        unwanted = (
            []
            if variant
            else [f"*.{v}{rest}" for v in ("fp16", "bf16", "non_ema") for rest in (".safetensors", "-0*.safetensors")]
        )
        return Path(
            snapshot_download(repository, allow_patterns=["model_index.json", *wanted], ignore_patterns=unwanted)
        )
    except GatedRepoError as error:
        raise BadInput(
            f"model {repository!r}: its owner asks to accept terms first; do so on its page, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"model {repository!r}: there is no such repository, or it is private; check the name, or `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise BadInput(
            f"model {repository!r}: not in the cache, and the hub cannot be reached (is HF_HUB_OFFLINE set?)"
        ) from error
    except EntryNotFoundError as error:
        raise BadInput(
            f"model {repository!r}: has no model_index.json; give a repository in diffusers' layout, or a file"
        ) from error
    except ValueError as error:
        raise Damaged(
            f"model {repository!r}: model_index.json does not parse ({error}); delete it from the cache"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BadInput(
            f"model {repository!r}: the hub answered {str(error).splitlines()[0]:.150}; try again, or give a folder"
        ) from error
