"""Model assembly: light networks put together from the blocks of trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..core.errors import BadInput, nearest


def assembled(teacher: Any, *, blocks: Mapping[str, nn.Module] | None = None, **changes: Any) -> Any:
    """A network of the teacher's class with a changed configuration and, in it, trained blocks.

    Reference: Zhang et al., A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance
    Strategies, 2406.00210.

    Args:
        teacher: a network of diffusers.
        blocks: name of a part of the light network -> trained module whose weights it gets; what is not named takes
            those of the teacher's part of the same name where the shapes agree, and stays random elsewhere.
        changes: of the configuration.

    Raises:
        BadInput: a part that the light network does not have, or a module that does not fit there.

    Example:
        >>> light = assembled(unet, mid_block_type=None)
        >>> light = assembled(unet, blocks={"down_blocks.1.resnets.0": other.mid_block.resnets[0]}, **lighter)
    """
    light = type(teacher).from_config({**teacher.config, **changes})
    for name, source in {**common(light, teacher), **(blocks or {})}.items():
        known = dict(light.named_modules())
        if name not in known:
            raise BadInput(f"blocks: the light network has no part {name!r}; {nearest(name, known)}")
        if fault := misfit(known[name], source):
            raise BadInput(f"blocks[{name!r}]: {fault}; give a module of the same shapes")
        known[name].load_state_dict(source.state_dict())
    return light


def common(light: nn.Module, teacher: nn.Module) -> dict[str, nn.Module]:
    """The largest parts of the teacher that fit at the same place of the light network."""
    found: dict[str, nn.Module] = {}
    theirs = dict(teacher.named_modules())
    for name, part in light.named_modules():
        inside = any(name == known or name.startswith(f"{known}.") for known in found)
        if name and not inside and name in theirs and part.state_dict() and not misfit(part, theirs[name]):
            found[name] = theirs[name]
    return found


def misfit(place: nn.Module, source: nn.Module) -> str:
    """Why the weights of `source` do not go into `place`, or ""."""
    wanted, given = ({name: tuple(v.shape) for name, v in module.state_dict().items()} for module in (place, source))
    for name in sorted({*wanted, *given}):
        if wanted.get(name) != given.get(name):
            here, there = wanted.get(name, "no such tensor"), given.get(name, "no such tensor")
            return f"{name} is {here} in the light network, and {there} in what it is to get"
    return ""
