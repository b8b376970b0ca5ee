"""
A trained ranker as a `Scorer`: weights in safetensors, everything else that it needs in meta.json.

    rank/<scene>/model.safetensors   the weights, and the encoding under `encoding.`
    rank/<scene>/meta.json           on, the network's name and shape, the features it takes,
                                     metrics, and what rank.value needs: blend and heads
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import nn

from features.assemble import Assembler, Fields
from funnel.config import Config, Rank
from funnel.errors import BadGeneration
from funnel.generation import Generation, write_text
from funnel.types import Array, Candidates, Floats, Query
from rank.batch import Batch, Encoded
from rank.encoding import Encoding, Raw
from rank.models import MODELS, name_of, shaped
from rank.together import Together

PREFIX = "encoding."


class Network:
    """Logits of the candidates; one thread a request, nothing done item by item."""

    def __init__(
        self, model: nn.Module, encoding: Encoding, reader: Reader, settings: Rank | None = None
    ):
        """A GPU that is there is used. `settings` may want requests to be scored together."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.encoding, self.reader = model.eval().to(self.device), encoding, reader
        self.heads = int(cast(Any, model).shape.heads)
        settings = settings or Rank()
        self.together: Callable[[Encoded], Floats] = self.forward
        if settings.together > 1:
            self.together = Together(self.forward, settings.together, settings.wait_ms)

    @staticmethod
    def open(generation: Generation, config: Config, scene: str) -> Network:
        """The scene's ranker. Raises `BadGeneration` where it is missing, broken, or was trained
        on other features than the generation declares."""
        meta = generation.json(f"rank/{scene}/meta.json")
        path = generation.file(f"rank/{scene}/model.safetensors")
        assembler = Assembler(generation, config, scene)
        if meta.get("features") != names(assembler) or meta.get("spec") != assembler.spec.hash:
            raise BadGeneration(
                f"{path} was trained on other features than the generation declares: "
                "build the generation again"
            )
        try:
            weights = load_file(path)
            encoding = Encoding(
                **{
                    name.removeprefix(PREFIX): weights.pop(name).numpy()
                    for name in [name for name in weights if name.startswith(PREFIX)]
                }
            )
            with torch.device("meta"):  # without memory of its own
                model = MODELS[meta["network"]](shaped(meta["shape"]))
            model.load_state_dict(weights, assign=True)  # which stay in the mapped file
        except (SafetensorError, RuntimeError, TypeError, KeyError) as error:
            said = str(error).splitlines()[0]
            raise BadGeneration(
                f"{path} does not fit its meta.json ({said}): build the generation again"
            ) from error
        liked = positive(generation)
        torch.set_num_threads(1)  # of this process: requests run beside each other, not in parts
        width = int(model.shape.vectors)
        if width and width != assembler.width:
            raise BadGeneration(
                f"{path} takes text vectors of {width} dimensions, the generation has "
                f"{assembler.width}: build the generation again"
            )
        reader = Reader(assembler, int(meta["history"]), liked, bool(width))
        return Network(model, encoding, reader, config.rank)

    def logits(self, query: Query, candidates: Candidates) -> Floats:
        """(n, T) a column a head."""
        if not len(candidates):
            return np.empty((0, self.heads), np.float32)
        fields = self.reader.fields(query, candidates)
        return self.together(self.encoding(self.reader.raw([fields])))

    def forward(self, encoded: Encoded) -> Floats:
        with torch.inference_mode():
            logits: Floats = self.model(Batch.of(encoded, self.device)).float().cpu().numpy()
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """What a ranker takes of a request, in training and in serving alike."""

    assembler: Assembler
    history: int  # newest positive actions
    liked: Array  # by action code, the last for unknown ones
    vectors: bool = False  # whether the items' text vectors are taken

    def fields(self, query: Query, candidates: Candidates) -> Fields:
        return self.assembler.fields(query, candidates, self.vectors)

    def raw(self, fields: Sequence[Fields]) -> Raw:
        return Raw.of(fields, self.assembler.multi, self.history, self.liked)

    def fit(self, raw: Raw) -> Encoding:
        assembler = self.assembler
        every = (*assembler.categorical, *assembler.multi)
        sizes = [assembler.vocab[name] for name in every]
        return Encoding.fit(raw, sizes, [every.index(name) for name in assembler.item_fields])


def names(assembler: Assembler) -> dict[str, list[str]]:
    """Everything a ranker takes, in order."""
    return {
        "categorical": list(assembler.categorical),
        "numbers": list(assembler.names),
        "multi": list(assembler.multi),
        "history": list(assembler.item_fields),
    }


def positive(generation: Generation) -> Array:
    """(actions + 1,) whether an action says that a user wants an item, by its code."""
    weights = generation.config.data.positive
    return np.array([*(name in weights for name in generation.manifest.actions), False])


def save(
    path: Path, model: nn.Module, encoding: Encoding, reader: Reader, meta: Mapping[str, Any]
) -> None:
    """Writes the two files of a scene's ranker; `meta` adds `on`, `metrics` and so on."""
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = {PREFIX + name: np.ascontiguousarray(a) for name, a in encoding.arrays().items()}
    save_file({**weights, **arrays}, path / "model.safetensors")
    table = {
        "network": name_of(model),
        "shape": asdict(cast(Any, model).shape),
        "features": names(reader.assembler),
        "spec": reader.assembler.spec.hash,
        "history": reader.history,
        **meta,
    }
    write_text(path / "meta.json", json.dumps(table, indent=1))
