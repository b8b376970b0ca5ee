"""
How much each recall channel counts, scene by scene, fitted on the data.

The past generation's channels answer training requests of [past, until) (and graded queries of the
training split); `recall.fit` chooses on them. Where there are too few requests, or where the scene
fixes its fusion, the config's weights stay.

Writes fusion/<scene>.json into both drafts: what was fitted, and how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
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
from recall.fit import FEWEST, Fitted, Judged, fit
from recall.fusion import FITTED, configured

REQUESTS = 400  # of a scene


def answers(query: Query, config: Config, parts: Parts, filters: Filters) -> dict[str, Candidates]:
    """What each channel of the query's scene returns."""
    mask = filters.allowed(query)
    channels = config.scene(query.scene).recall.channels
    return {
        name: parts.channels[name].find(query, mask, channel.limit)
        for name, channel in channels.items()
        if channel.limit and name in parts.channels
    }


def judged(work: Work) -> dict[str, list[Judged]]:
    """By scene: training requests with what each channel found and what was wanted."""
    from jobs.requests import requests, validating

    config = work.config
    generation = Generation.open(work.past_draft, check=False)
    parts, filters = Parts.open(generation, config), Filters.open(generation, config)
    held = validating(work)
    asked = [entry for entry in requests(work) if entry[0].request_id not in held]
    made: dict[str, list[Judged]] = {}
    for scene in config.scenes:
        wanted = [
            (query, grades)
            for query, became in asked
            if query.scene == scene
            and (grades := {row: label for row, (label, _) in became.items() if label > 0})
        ]
        wanted = sorted(wanted, key=lambda entry: id_hash(entry[0].request_id))[:REQUESTS]
        made[scene] = [(answers(q, config, parts, filters), grades) for q, grades in wanted]
    return made


def fitted(work: Work) -> dict[str, Fitted | str]:
    """By scene: what was fitted, or why nothing was."""
    config = work.config
    found: dict[str, Fitted | str] = {}
    for name, requests in judged(work).items():
        settings = config.scene(name).recall
        start = configured(settings, bool(config.vectors.encoder))
        channels = list(requests[0][0]) if requests else []
        if start.method not in FITTED:
            found[name] = f"its fusion is {start.method}, which has no weights to fit"
        elif len(requests) < 2 * FEWEST:
            found[name] = f"{len(requests)} judged requests, {2 * FEWEST} are needed"
        elif len(channels) < 2:
            found[name] = "fewer than two channels"
        else:
            work.progress(f"fusion of {name}")
            norms = settings.norm == "auto"
            found[name] = fit(requests, channels, start, norms, settings.fusion == "auto")
    return found


def run(work: Work) -> Mapping[str, Any]:
    targets = [fresh(draft / "fusion") for draft, _ in work.drafts]
    metrics: dict[str, Any] = {}
    for scene, found in fitted(work).items():
        if isinstance(found, str):
            metrics[scene] = f"not fitted: {found}"
            continue
        for target in targets:
            (target / f"{scene}.json").write_text(json.dumps(asdict(found), indent=1))
        best = {f"{found.best} alone": found.metrics[found.best][0]}
        kind = {"refused": True} if found.refused else {"by": f"{found.method}, {found.norm}"}
        ndcg = {"nDCG@10": found.metrics["fusion"][0], **best}
        metrics[scene] = {**{n: round(w, 2) for n, w in found.weights.items()}, **kind, **ndcg}
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
