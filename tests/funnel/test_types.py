import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from funnel.types import Candidates, History, Step, best

SCORES = arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.one_of(
        st.floats(-5, 5, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0])
    ),
)


@given(SCORES, st.integers(0, 70), st.randoms(use_true_random=False))
def test_best_is_a_total_order_and_broken_scores_come_last(scores, k, random) -> None:
    rows = np.array(random.sample(range(1000), len(scores)), np.int32)
    keys = [(-s if np.isfinite(s) else np.inf, r) for s, r in zip(scores, rows, strict=True)]
    naive = sorted(range(len(scores)), key=lambda i: keys[i])[:k]
    assert best(scores, rows, k).tolist() == naive


def test_taking_candidates_takes_every_column_and_keeps_the_steps() -> None:
    step = Step("recall", 0, 3, 1.0)
    found = Candidates(
        np.array([5, 6, 7], np.int32),
        np.array([0.1, 0.3, 0.2], np.float32),
        {"a": np.arange(3), "m": np.eye(3)},
        (step,),
    ).top(2)
    assert found.rows.tolist() == [6, 7]
    assert found.columns["a"].tolist() == [1, 2]
    assert found.columns["m"].tolist() == np.eye(3)[[1, 2]].tolist()
    assert found.steps == (step,)


def test_a_history_keeps_its_newest_actions() -> None:
    history = History(np.arange(5, dtype=np.int32), np.zeros(5, np.int8), np.arange(5))
    assert history.last(2).rows.tolist() == [3, 4]
    assert len(history.last(0)) == 0
    assert len(history.last(9)) == 5
