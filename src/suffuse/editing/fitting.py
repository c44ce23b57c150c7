"""A model fitted to one picture: first what it is told, then its weights; the model itself stays as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..adapters.delta import Delta
from ..adapters.direct import FullWeight
from ..core.cond import Cond
from ..core.errors import Damaged, SuffuseError
from ..core.expression import parse, unparse
from ..core.files import atomic_write
from ..core.model import Model
from ..core.noise import Noise
from ..core.patch import Adapter
from ..core.plugin import Setting
from ..core.registry import method
from ..core.training import Batch, Loss, Objective, Phase, Roles
from ..images import Picture, to_tensor
from ..training.denoising import Denoising
from ..training.optimisers import AdamW
from ..training.trainer import Trainer

ENTRIES = ("text", "pooled")
"""What a prompt is made into, in sequence and pooled; both are fitted where a model has both."""


class Embedding(nn.Module):
    """What a prompt is made into, as parameters: a role that trains.

    Args:
        entries: name -> (1, ...) tensor of a condition.
    """

    def __init__(self, entries: Mapping[str, Tensor]):
        super().__init__()
        self.entries = nn.ParameterDict({k: v.detach().clone().float() for k, v in entries.items()})

    def told(self, cond: Cond) -> Cond:
        """`cond` with these entries in every row."""
        own = {k: v.expand(len(cond[k]), *v.shape[1:]) for k, v in self.entries.items()}
        return replace(cond, entries={**cond.entries, **own})


@dataclass(frozen=True)
class UnderEmbedding(Objective):
    """An objective whose condition is the role `role`, an `Embedding`."""

    inner: Objective = field(default_factory=Denoising)
    role: str = "embedding"

    def parts(self, roles: Roles) -> nn.ModuleDict:
        return self.inner.parts(roles)

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        own = roles[self.role]
        assert isinstance(own, Embedding)
        return self.inner(roles, replace(batch, cond=own.told(batch.cond)), noise, parts)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A picture in a model: embeddings and a change of the weights.

    Args:
        prompt: that the embedding began at.
        target: its own embedding, entries of one row.
        found: the embedding fitted to the picture.
        weights: the change of the weights, or None.
        made_for: the model, and the shape of the picture's state.
    """

    prompt: str
    target: Mapping[str, Tensor]
    found: Mapping[str, Tensor]
    weights: Adapter | None
    made_for: Setting

    def mixed(self, eta: float) -> dict[str, Tensor]:
        """eta e_tgt + (1 - eta) e_opt: 0 is the picture, 1 the prompt."""
        return {k: torch.lerp(v, self.target[k], eta) for k, v in self.found.items()}

    def on(self, model: Model) -> Model:
        """A view of the model with the change of the weights; raises `Refused` on another model."""
        model.setting().require(self.made_for, ("model",), f"the fit to a picture of {self.prompt!r}")
        return model if self.weights is None else model.with_(self.weights)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all."""
        state = {} if self.weights is None else self.weights.state_dict()
        groups = {"target": self.target, "found": self.found, "weights": state}
        tensors = {f"{name}.{k}": v.contiguous() for name, group in groups.items() for k, v in group.items()}
        patch = None if self.weights is None else unparse(self.weights.patch)
        about = {"prompt": self.prompt, "patch": patch, "made_for": asdict(self.made_for)}
        return atomic_write(path, save(tensors, {"fitted": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> Fitted:
        """Read what `save` wrote, for the model that it was made with.

        Raises:
            Damaged: it is missing, or not a fit. Refused: another model.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["fitted"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            place = about["made_for"]
            made_for = Setting(**{**place, "times": tuple(place["times"]), "shape": tuple(place["shape"])})
            groups: dict[str, dict[str, Tensor]] = {"target": {}, "found": {}, "weights": {}}
            for name, value in tensors.items():
                group, _, rest = name.partition(".")
                groups[group][rest] = value
            patch = None if about["patch"] is None else parse(about["patch"], Delta)  # type: ignore[type-abstract]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, SuffuseError) as error:
            raise Damaged(f"{path}: not a fit to a picture ({error}); fit it again and save it") from error
        fitted = cls(about["prompt"], groups["target"], groups["found"], None, made_for)
        fitted.on(model)
        if patch is None:
            return fitted
        weights = patch.on(model.denoiser)
        weights.load_state_dict(groups["weights"])
        return replace(fitted, weights=weights.requires_grad_(False))


@method(paper="imagic", tags=("fitting",))
def fit_to_image(
    model: Model,
    image: Picture,
    prompt: str,
    *,
    embedding: tuple[int, float] = (100, 1e-3),
    weights: Delta | None = FullWeight(where="full"),
    fine_tuning: tuple[int, float] = (1500, 1e-6),
    batch: int = 1,
    seed: int = 0,
) -> Fitted:
    """The embedding of a prompt, then a change of the weights, fitted to one picture by the loss of training.

        e_opt = argmin_e E |value - value_theta(x_t, t, e)|^2 from e_tgt on,  then  argmin_theta  of the same at e_opt

    Args:
        model: a loaded model; it stays as it is, to the bit.
        image: the picture.
        prompt: what the embedding begins at.
        embedding: steps of the first stage, and Adam's rate; few, so that it stays near the prompt.
        weights: what changes in the second stage: `FullWeight(where="full")` all linear and convolutional layers,
            `LoRA(4)` a little; None leaves the second stage out.
        fine_tuning: steps of the second stage, and Adam's rate.
        batch: draws of time and noise a step.
        seed: of these.

    Example:
        >>> fit_to_image(model, "dog.png", "a sitting dog", weights=LoRA(4), fine_tuning=(300, 1e-4)).save("dog.fit")

    Reference: Kawar et al., Imagic: Text-Based Real Image Editing with Diffusion Models, 2210.09276.
    """
    x0 = model.encode(to_tensor(image))
    size = tuple(to_tensor(image).shape[-2:])
    cond = model.condition([prompt], n=batch, size=size)  # type: ignore[arg-type]
    target = {k: cond[k][:1].detach() for k in ENTRIES if k in cond}
    own, draws = Embedding(target), x0.expand(batch, *x0.shape[1:])
    _trained({"model": model.denoiser, "embedding": own}, UnderEmbedding(), "embedding", draws, cond, embedding, seed)
    found = {k: v.detach().clone() for k, v in own.entries.items()}
    made_for = replace(model.setting(), shape=tuple(x0.shape[1:]))
    if weights is None:
        return Fitted(prompt, target, found, None, made_for)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        change = weights.on(model.denoiser)
    told = Embedding(found).requires_grad_(False).told(cond)
    roles = {"model": model.denoiser.with_(change), "weights": change}
    _trained(roles, Denoising(), "weights", draws, told, fine_tuning, seed + 1)
    return Fitted(prompt, target, found, change.requires_grad_(False).eval(), made_for)


def _trained(
    roles: Any, objective: Objective, role: str, x0: Tensor, cond: Cond, plan: tuple[int, float], seed: int
) -> None:
    """Adam on one role, each step on the same picture at other times and noises."""
    steps, rate = plan
    phase = Phase(objective, trains=role, optim=AdamW(rate, weight_decay=0.0), clip=None)
    draws = Batch(x0, cond, torch.arange(len(x0)))
    if steps:
        for _ in Trainer(roles, phase, seed=seed).fit(lambda step: draws, steps):
            pass
