"""The benchmark of vectors: what its figures are of."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import vectors
from funnel.types import Query
from jobs.build import STEPS


@pytest.mark.parametrize("kind", vectors.KINDS)
def test_every_channel_is_asked_for_as_deep(kind: str) -> None:
    config = vectors.settings(kind, Path("generations"), {})
    assert config.vectors.behaviour == kind
    for scene, channels in vectors.SCENES.items():
        found = config.scenes[scene].recall.channels
        assert {found[name].limit for name in channels} == {vectors.DEPTH}


def test_its_steps_are_steps_of_the_build() -> None:
    assert set(vectors.STEPS) <= {step.name for step in STEPS}


def test_what_a_judge_said_is_told_apart_from_what_users_did() -> None:
    assert vectors.told("search", Query(request_id="query-q1")) == "graded"
    assert vectors.told("search", Query(request_id="r1")) == "search"
    assert vectors.told("home", Query(request_id="query-q1")) == "home"
