"""Prerank: a gradient-boosted tree ensemble orders what recall found and keeps the best."""

from __future__ import annotations

from funnel.config import Config
from funnel.generation import Generation
from funnel.stage import Chain, Cut, Hydrate, Hydrator, Score, Stage


def build(generation: Generation, config: Config, scene: str, counters: Hydrator) -> Stage:
    """The prerank stage of a scene: live counters, then the model's scores as column `prerank`.

    Without a model, or with one that lost to recall's order on validation (unless the config says
    `on`), it keeps the top of recall's order. Raises `BadGeneration` where the config says `on`
    and there is no model, or the model was trained on other features.
    """
    from prerank.gbdt import GBDT, usable

    settings = config.scene(scene).prerank
    if not usable(generation, scene, settings.model):
        return Cut(settings.keep)
    scorer = GBDT.open(generation, config, scene)
    return Chain((Hydrate((counters,)), Score(scorer, settings.keep, "prerank")))
