"""
How much each recall channel counts, scene by scene, fitted on the data.

The past generation's channels answer training requests of [past, until) (and graded queries of the
training split); the weights are swept on one half of them and held against the single channels on
the other half. Where there are too few requests the config's weights stay.

Writes fusion/<scene>.json into both drafts: weights, and nDCG@10 on the second half.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from funnel.catalogue import id_hash
from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Candidates, Query
from jobs.command import command
from jobs.fresh import fresh
from jobs.work import Work
from recall import Parts
from recall.filters import Filters
from recall.fusion import fit_weights

REQUESTS = 400  # of a scene
FEWEST = 20  # on each side, or nothing is fitted

Found = dict[str, Candidates]


def answers(query: Query, config: Config, parts: Parts, filters: Filters) -> Found:
    """What each channel of the query's scene returns."""
    mask = filters.allowed(query)
    channels = config.scene(query.scene).recall.channels
    return {
        name: parts.channels[name].find(query, mask, channel.limit)
        for name, channel in channels.items()
        if channel.limit and name in parts.channels
    }


def run(work: Work) -> Mapping[str, Any]:
    from jobs.requests import requests

    config, metrics = work.config, {}
    targets = [fresh(draft / "fusion") for draft, _ in work.drafts]
    generation = Generation.open(work.past_draft, check=False)
    asked = requests(work)
    parts, filters = Parts.open(generation, config), Filters.open(generation, config)
    for scene in config.scenes:
        own = [(q, became) for q, became in asked if q.scene == scene]
        own = sorted(own, key=lambda entry: id_hash(entry[0].request_id))[:REQUESTS]
        halves: tuple[list[Any], list[Any]] = ([], [])
        for place, (query, became) in enumerate(own):
            grades = {row: label for row, (label, _) in became.items() if label > 0}
            if grades:
                halves[place % 2].append((answers(query, config, parts, filters), grades))
        names = [n for n, c in config.scenes[scene].recall.channels.items() if c.limit]
        names = [name for name in names if name in parts.channels]
        if min(map(len, halves)) < FEWEST or len(names) < 2:
            continue
        fitted = fit_weights(*halves, names)
        table = {"weights": dict(fitted.weights), "metrics": dict(fitted.metrics)}
        for target in targets:
            (target / f"{scene}.json").write_text(json.dumps(table, indent=1))
        metrics[scene] = table
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
