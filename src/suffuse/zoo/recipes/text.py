"""The tokenizer and the text encoder of the bundled models, taught what captions of the world say.

The encoder learns to say in its own states what a caption means: at each noun the attributes bound to it, in the end
token everything, and in the padding behind it, in turn, one object with its place. Slots go from left to right or from
above to below where a relation is stated, so that "a left of b" and "b right of a" read alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ...core.cond import Cond
from ...core.noise import Noise
from ...training import AdamW, Batch, Loss, Objective, Phase, Roles, Trainer, WarmupDecay
from ...world import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Caption,
    WorldConfig,
    describe,
    sample_scenes,
    vocabulary,
)
from ...world.languages import plural
from ...world.scene import generator
from .building import Built, Recipe, Report, train
from .folder import save_vocabulary

LENGTH = 32
"""Tokens of a prompt; the longest caption takes 29."""

SLOTS = 3
PLACES = ("free", *RELATIONS)
VALUES = {
    "count": 4,
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "texture": len(TEXTURES) + 1,
    "size": len(SIZES) + 1,
    "place": len(PLACES),
    "background": len(BACKGROUNDS) + 1,
}
"""What is said of an object and how many answers there are; the last answer, and count 0, mean that it is unsaid."""

AT_NOUN = ("count", "shape", "colour", "texture", "size")
AT_PADDING = ("count", "shape", "colour", "place", "background")


def train_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's form, trained until each of `words` is one token; any other text takes more tokens.

    The pair that is most frequent in the present spelling of the words is merged next, the first in the alphabet
    among equals (Sennrich et al. 2016).
    """
    letters = _byte_letters()
    spelling = {word: _spell([letters[byte] for byte in word.encode()]) for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for pieces in spelling.values() for pair in zip(pieces, pieces[1:], strict=False))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelling = {word: _merge(pieces, best) for word, pieces in spelling.items()}
    alphabet = sorted(letters.values())
    pieces = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter of each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def _spell(letters: list[str]) -> tuple[str, ...]:
    return (*letters[:-1], letters[-1] + "</w>")


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def network(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The untrained encoder: 6 layers, 128 wide, 1.3 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config)


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids (B, LENGTH), padded with the end token as Stable Diffusion does."""
    padded = tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return padded.input_ids


def meaning(caption: Caption | None) -> list[list[int]]:
    """What a caption says of SLOTS objects, one answer for each of VALUES; None is the empty prompt."""
    unsaid = [0, *(n - 1 for n in VALUES.values())][1:]
    unsaid[0], unsaid[5] = 0, 0
    rows = [list(unsaid) for _ in range(SLOTS)]
    if caption is None:
        return rows
    related = RELATIONS.index(caption.relation) if caption.relation else None
    for row, phrase in zip(rows, caption.phrases, strict=False):
        row[:5] = (
            phrase.count,
            SHAPES.index(phrase.shape),
            COLOURS.index(phrase.colour),
            TEXTURES.index(phrase.texture) if phrase.texture else unsaid[3],
            SIZES.index(phrase.size) if phrase.size else unsaid[4],
        )
    if related is not None:
        rows[0][5], rows[1][5] = 1 + related, 1 + (related ^ 1)
    if caption.background:
        for row in rows:
            row[6] = BACKGROUNDS.index(caption.background)
    return rows


@dataclass(frozen=True)
class Captions:
    """Batches of captions, "text" (B, LENGTH) token ids, and their meaning in reading order, "said" (B, SLOTS, 7).

    One in thirty is the empty prompt, and one in six lacks its articles.
    """

    tokenizer: CLIPTokenizer
    size: int = 64
    seed: int = 0

    def __call__(self, step: int) -> Batch:
        key = (11, self.seed, step)
        captions = describe(sample_scenes(self.size, key, WorldConfig(objects=(0.3, 0.45, 0.25))), key)
        chance = generator(*key, 2).random(self.size)
        pairs = list(zip(chance, captions, strict=True))
        texts = ["" if p < 1 / 30 else _bare(str(c)) if p < 1 / 5 else str(c) for p, c in pairs]
        said = torch.tensor([meaning(None if p < 1 / 30 else c) for p, c in pairs])
        data = {"text": tokens(self.tokenizer, texts), "said": said}
        return Batch(data, Cond(), torch.arange(self.size) + step * self.size)


def _bare(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ("a", "an"))


class Questions(nn.Module):
    """Linear readings of a state: for each of `names` the answer's logits, for `slots` objects."""

    def __init__(self, width: int, names: Sequence[str], slots: int = 1):
        super().__init__()
        self.names, self.slots = tuple(names), slots
        self.linear = nn.Linear(width, slots * sum(VALUES[name] for name in names))

    def forward(self, states: Tensor, said: Tensor) -> Tensor:
        """Cross-entropy (N,) of the answers `said` (N, slots, 7) read from states (N, width)."""
        logits = self.linear(states).float().unflatten(1, (self.slots, -1)).flatten(0, 1)
        answers = said.flatten(0, 1)
        keys = list(VALUES)
        total = logits.new_zeros(len(logits))
        for name, part in zip(self.names, logits.split([VALUES[n] for n in self.names], 1), strict=True):
            total = total + nn.functional.cross_entropy(part, answers[:, keys.index(name)], reduction="none")
        return total.unflatten(0, (-1, self.slots)).mean(1)


@dataclass(frozen=True)
class Comprehension(Objective):
    """Cross-entropy of what a caption says, read by linear heads from the states of its tokens.

    Read are the last layer and the one before it, for pipelines that use either, and the projected end token.
    """

    nouns: tuple[int, ...]
    end: int

    def parts(self, roles: Roles) -> nn.ModuleDict:
        width = roles.model.config.hidden_size
        heads = {"pooled": Questions(roles.model.config.projection_dim, tuple(VALUES), SLOTS)}
        for layer in ("last", "before"):
            heads |= {f"{layer}_noun": Questions(width, AT_NOUN), f"{layer}_padding": Questions(width, AT_PADDING)}
        return nn.ModuleDict({**heads, "norm": nn.LayerNorm(width, elementwise_affine=False)})

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        ids, said = batch.data["text"], batch.data["said"]
        out = roles.model(ids, output_hidden_states=True)
        noun = torch.isin(ids, torch.tensor(self.nouns, device=ids.device))
        phrase = noun.cumsum(1) - 1
        padding = (ids == self.end).cumsum(1) > 1
        place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) % SLOTS
        ordered = _ordered(said)
        layers = {"last": out.last_hidden_state, "before": parts["norm"](out.hidden_states[-2])}
        terms = {"pooled": parts["pooled"](out.text_embeds, ordered)}
        for name, states in layers.items():
            row, token = noun.nonzero(as_tuple=True)
            losses = parts[f"{name}_noun"](states[row, token], said[row, phrase[row, token]][:, None])
            terms[f"{name}_noun"] = _mean(losses, row, len(ids))
            row, token = padding.nonzero(as_tuple=True)
            losses = parts[f"{name}_padding"](states[row, token], ordered[row, place[row, token]][:, None])
            terms[f"{name}_padding"] = _mean(losses, row, len(ids))
        return Loss(torch.stack(list(terms.values())).sum(0), terms)


def _ordered(said: Tensor) -> Tensor:
    """The left or upper object first, where a relation is said."""
    turned = (said[:, 0, 5] == 2) | (said[:, 0, 5] == 4)
    return torch.where(turned[:, None, None], said[:, [1, 0, 2]], said)


def _mean(losses: Tensor, row: Tensor, rows: int) -> Tensor:
    total = losses.new_zeros(rows).index_add(0, row, losses)
    return total / row.bincount(minlength=rows).clamp(min=1)


def build(
    folder: str | Path,
    steps: int = 800,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Report = print,
) -> Built:
    """Train both and write them to `folder`/text/tokenizer and /text_encoder; checkpoints in /run are resumed."""
    folder = Path(folder) / "text"
    tokenizer = train_tokenizer(vocabulary())
    torch.manual_seed(seed)
    encoder = network(tokenizer).to(device)
    nouns = tokenizer.convert_tokens_to_ids([w + "</w>" for s in SHAPES for w in (s, plural(s))])
    objective = Comprehension(tuple(nouns), tokenizer.eos_token_id)
    optim = AdamW(lr=1e-3, schedule=WarmupDecay(warmup=100, decay=0.5))
    trainer = Trainer({"model": encoder}, Phase(objective, optim=optim), seed=seed, precision="bf16")
    run = folder / "run"
    train(trainer, Captions(tokenizer, seed=seed), steps, "text", run, shard=shard, save_every=250, report=report)
    encoder = encoder.cpu().eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    save_vocabulary(tokenizer, folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    return Built(folder, trainer.step, trainer.seconds)


RECIPE = Recipe(summary="Tokenizer and text encoder of the text-to-image models", build=build, steps=800, defaults={})
