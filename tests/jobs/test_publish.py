"""The end of a build: golden requests, and the generation that is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from funnel.config import merged, parse
from funnel.errors import BadGeneration
from funnel.generation import Generation, current, generations
from jobs import golden, publish
from jobs.build import STEPS, run
from jobs.build import published as known
from jobs.work import Work

OTHER = {"store": {"timeout_ms": 7}}
NOW = 1_700_000_000_000
LEARNED = ("train_prerank", "train_rank")  # nothing to learn from here; torch loads for seconds
SHORT = tuple(
    replace(step, after=tuple(name for name in step.after if name not in LEARNED))
    for step in STEPS
    if step.name not in LEARNED
)


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: list[dict[str, object]]
) -> Work:
    queries = [{"query_id": f"q{n}", "query": f"lamp i{n:02d}"} for n in range(6)]
    work = opened(data_set(items=goods, queries=queries))
    assert run(work, steps=SHORT)["golden"] == len(json.loads(golden.path(work).read_text()))
    return work


def published(work: Work) -> Generation:
    root = Path(work.config.build.root)
    return Generation.open(root / current(root))


def test_what_is_published_is_whole_and_says_what_it_is(work: Work) -> None:
    generation = published(work)
    manifest = generation.manifest
    assert (manifest.until, manifest.past) == (work.until, work.past)
    assert generation.config == work.config
    assert manifest.metrics["items"] == {"items": 12}
    assert manifest.data
    assert manifest.spec
    assert "items/table.arrow" in manifest.files
    generation.check(all_bytes=True)


def test_golden_requests_are_of_every_scene_and_have_answers(work: Work) -> None:
    asked = published(work).manifest.golden
    assert {ask["scene"] for ask in asked} == set(work.config.scenes)
    assert all(ask["item_ids"] and len(ask["item_ids"]) == len(ask["scores"]) for ask in asked)
    texts = [ask["text"] for ask in asked if ask["scene"] == "search"]
    assert texts == ["lamp i00", "lamp i01", "lamp i03", "lamp i04"]


def test_a_generation_that_answers_otherwise_is_not_published(work: Work) -> None:
    file = golden.path(work)
    kept, before = file.read_text(), current(Path(work.config.build.root))
    asked = json.loads(kept)
    asked[0]["item_ids"] = asked[0]["item_ids"][::-1]
    file.write_text(json.dumps(asked))
    try:
        with pytest.raises(BadGeneration, match=r"golden request .*lamp"):
            publish.run(work, NOW)
    finally:
        file.write_text(kept)
    assert current(Path(work.config.build.root)) == before


def test_the_id_begins_with_the_time_of_the_build(work: Work) -> None:
    root = Path(work.config.build.root)
    made = publish.run(work, NOW)["generation"]
    assert made.startswith("20231114T221320Z-")
    assert current(root) == made
    assert made in generations(root)
    with pytest.raises(BadGeneration, match="exists already"):
        publish.run(work, NOW)


def test_building_again_changes_no_published_file(work: Work) -> None:
    first = published(work)
    run(work, force=True, steps=SHORT)
    first.check(all_bytes=True)
    assert published(work).id != first.id


def test_what_was_published_is_known_again_when_the_config_is_changed_back(work: Work) -> None:
    run(work, steps=SHORT)
    first = known(work, SHORT)
    other = Work.open(work.data, parse(merged(work.config.model_dump(mode="json"), OTHER)))
    assert known(other, SHORT) is None
    run(other, steps=SHORT)
    assert known(other, SHORT) == published(work).id != first
    assert known(work, SHORT) == first
    assert Generation.open(Path(work.config.build.root) / str(first)).config == work.config
