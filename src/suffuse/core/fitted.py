"""Fitted plug-ins as files: one safetensors file holds the arguments, and the weights of the networks among them.

What a plug-in was fitted for (`made_for`, a Setting) is one of its arguments, so it travels in the file, and a run in
another setting refuses it as ever.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .errors import BadInput, Damaged, SuffuseError
from .expression import parse, unparse
from .files import atomic_write
from .plugin import Plugin
from .registry import method_of, resolve


def save_method(plugin: Plugin, path: str | os.PathLike[str]) -> Path:
    """Write a plug-in to a .safetensors file, whole or not at all.

    Args:
        plugin: a registered one. Networks among its arguments need `config`, the arguments of their class as plain
            data, and their class as the type of the field.
        path: file to write.

    Raises:
        BadInput: it is not registered, or holds something else that a file cannot hold.
    """
    if (known := method_of(type(plugin))) is None:
        raise BadInput(f"plugin: {type(plugin).__name__} is not registered; put @method above its class")
    given = {f.name: getattr(plugin, f.name) for f in fields(plugin) if f.init}  # type: ignore[arg-type]
    networks: dict[str, Any] = {name: v for name, v in given.items() if isinstance(v, nn.Module)}
    about = {
        "method": known.name,
        "arguments": {name: unparse(v) for name, v in given.items() if name not in networks},
        "networks": {name: unparse(net.config) for name, net in networks.items()},
    }
    weights = {f"{name}.{k}": v.contiguous() for name, net in networks.items() for k, v in net.state_dict().items()}
    return atomic_write(path, save(weights, {"suffuse": json.dumps(about)}))


def load_method(path: str | os.PathLike[str]) -> Any:
    """Read what `save_method` wrote.

    Raises:
        BadInput: there is no such file. Damaged: it is not a fitted plug-in, or not whole.
    """
    if not Path(path).is_file():
        raise BadInput(f"path: there is no file {path}; give one that save_method wrote")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["suffuse"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        target = resolve(about["method"]).target
        given: dict[str, Any] = {name: parse(text) for name, text in about["arguments"].items()}
        types = get_type_hints(target) if about["networks"] else {}
        for name, config in about["networks"].items():
            net = types[name](**parse(config))
            net.load_state_dict({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")})
            given[name] = net.eval().requires_grad_(False)
        return target(**given)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, SuffuseError) as error:
        raise Damaged(f"{path}: not a fitted method ({error}); fit it again and save it") from error
