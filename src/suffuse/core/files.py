"""Files that are whole or absent: atomic writing, strict JSON, hashes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from suffuse.core.errors import BadInput, Damaged


def atomic_write(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write `content` to `path`; whatever interrupts the writing, a reader sees the old file or the whole new one.

    Args:
        path: file to create or replace; its folder is made where missing.
        content: the bytes, or a function that writes them to the open binary file it is given.

    Returns:
        `path`.

    Raises:
        BadInput: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"path: {path} is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as indented JSON, atomically; NaN and infinity, which JSON does not have, are refused."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"value: {error}; {path} can hold finite numbers, text, lists and dicts") from error
    return atomic_write(path, (text + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; one that is missing or does not parse is `Damaged`, by name."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing; restore it or write it again") from error
    except ValueError as error:
        raise Damaged(f"{path} is not valid JSON ({error}); restore it or write it again") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing; restore it or write it again") from error
