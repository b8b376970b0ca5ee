"""Rank: a deep model orders what prerank kept, and says how likely a click is."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config import Config
from funnel.errors import BadConfig, BadGeneration
from funnel.formula import Formula
from funnel.generation import Generation
from funnel.stage import Chain, Cut, Hydrator, Score, Stage
from funnel.types import Candidates, Query
from rank.value import Blend, Head, Platt, Predicted, Valued, known_names

EVERY = 1 << 30  # candidates: none is cut


@dataclass(frozen=True)
class Counted:
    """Adds live counters where prerank did not."""

    counters: Hydrator

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        if any(name.startswith("live.") for name in candidates.columns):
            return candidates
        return candidates.with_columns(self.counters.hydrate(query, candidates.rows))


def build(generation: Generation, config: Config, scene: str, counters: Hydrator) -> Stage:
    """The rank stage of a scene: the network's logit, `p.click` and the like, and column
    `rank`, which adds what prerank said (rank.value).

    Without a model, or with one that lost to prerank's order on validation (unless the config says
    `on`), it keeps the top of prerank's order. Where the config names a cross-encoder, it reads the
    best of that; one that the build made only if that was better on validation. Raises
    `BadGeneration` where the config says `on` and there is no model, or the model was trained on
    other features.
    """
    ranked, cross = _ranked(generation, config, scene, counters), config.scene(scene).rank.cross
    if not cross.model:
        return ranked
    from rank.cross import TRAINED, Cross, loaded, texts_of

    place, weight = cross.model, cross.weight
    if cross.model == TRAINED:
        name = f"cross/{scene}/meta.json"
        meta = generation.json(name) if generation.has(name) else {"on": False}
        if not meta["on"]:
            return ranked
        place, weight = str(generation.file(name).parent), meta["weight"]
    reads = loaded(place, f"scenes.{scene}.rank.cross.model")
    return Chain((ranked, Cross(reads, texts_of(generation.items), cross.top, weight)))


def _ranked(generation: Generation, config: Config, scene: str, counters: Hydrator) -> Stage:
    settings = config.scene(scene).rank
    if not usable(generation, scene, settings.model):
        return Cut(settings.keep)
    from rank.scorer import Network  # torch, which a scene without a model does not need

    network = Network.open(generation, config, scene)
    meta = generation.json(f"rank/{scene}/meta.json")
    heads = tuple(Head(h["action"], h["level"], Platt(**h["platt"])) for h in meta["heads"])
    ranked = Counted(counters), Predicted(network, heads)
    blend = Blend(**meta["blend"])
    if not settings.value:
        return Chain((*ranked, Score(blend, settings.keep, "rank")))
    formula = Formula.parse(settings.value)
    known = known_names(generation, heads, config.scene(scene).recall.channels)
    for name in formula.names:
        if name not in known:
            raise BadConfig(
                f"scenes.{scene}.rank.value: unknown name '{name}'; known: {', '.join(known)}"
            )
    value = Score(Valued(formula, generation.items), settings.keep, "value")
    return Chain((*ranked, Score(blend, EVERY, "rank"), value))


def usable(generation: Generation, scene: str, model: str) -> bool:
    """Whether the scene's model is to be used; `model` is auto, on or off.

    Raises `BadGeneration` for `on` without a model.
    """
    name = f"rank/{scene}/meta.json"
    there = generation.has(name) and generation.has(f"rank/{scene}/model.safetensors")
    if model == "on" and not there:
        raise BadGeneration(
            f"{generation.path} has no rank model for scene '{scene}', and the config says "
            f'scenes.{scene}.rank.model = "on": set it to "auto", or build with more events'
        )
    return model != "off" and there and (model == "on" or bool(generation.json(name)["on"]))
