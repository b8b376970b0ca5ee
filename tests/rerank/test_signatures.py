"""Signatures against the similarity counted out."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from features.tokens import words
from rerank import signatures as module
from rerank.signatures import COMMON, WIDTH, resemblance, signatures

WORDS = [f"word{n}" for n in range(60)]


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return set(pairwise(found)) or {tuple(found)}


def texts(seed: int, n: int = 60) -> list[str]:
    """Each is the one before it with a few words changed."""
    random = np.random.default_rng(seed)
    made, text = [], list(random.choice(WORDS, 40))
    for _ in range(n):
        for place in random.integers(0, 40, random.integers(0, 4)):
            text[place] = str(random.choice(WORDS))
        made.append(" ".join(text))
    return made


def weights(made: list[str]) -> dict[tuple[str, ...], float]:
    """log(1 + n / items that have it), of every shingle."""
    counts = Counter(shingle for text in made for shingle in shingles(text))
    return {shingle: np.log1p(len(made) / count) for shingle, count in counts.items()}


def test_agreeing_places_estimate_the_weighted_jaccard_similarity() -> None:
    errors = []
    for seed in range(8):
        made = texts(seed)
        close, weight = resemblance(signatures(made, seed=seed)), weights(made)
        for i in range(len(made)):
            for j in range(i):
                a, b = shingles(made[i]), shingles(made[j])
                exact = sum(weight[s] for s in a & b) / sum(weight[s] for s in a | b)
                errors.append(close[i, j] - exact - (1 - exact) / 256)
    # One estimate is off by at most 1 / (2 √k) on average of squares, all of them by nothing.
    assert abs(np.mean(errors)) < 0.01
    assert np.sqrt(np.mean(np.square(errors))) < 0.5 / np.sqrt(WIDTH) + 0.01


def test_what_many_items_share_makes_no_two_alike() -> None:
    films = [f"film{n} widescreen dubbed subtitle dolby digital dvd" for n in range(200)]
    close = resemblance(signatures([*films, films[3]]))
    assert close[3, 200] == 1.0
    np.fill_diagonal(close, 0)
    close[3, 200] = close[200, 3] = 0
    assert close.max() < 0.75  # five of seven shingles are the same


def test_a_text_that_many_items_have_identifies_none() -> None:
    signed = signatures(["greatest hits cd"] * (COMMON + 1) + ["abbey road cd"] * COMMON)
    assert not signed[: COMMON + 1].any()
    assert (resemblance(signed[COMMON + 1 :]) == 1.0).all()


def test_the_same_words_have_the_same_signature_whatever_stands_between() -> None:
    one, two = signatures(["Red Lamp, for reading!", "red lamp for READING"])
    assert np.array_equal(one, two)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [*texts(1, 10), "", "one", "", *texts(2, 10)]
    together = signatures(made)
    monkeypatch.setattr(module, "BLOCK", 4)
    assert np.array_equal(together, signatures(made))


def test_texts_without_words_are_like_nothing_and_one_word_is_like_itself() -> None:
    signed = signatures(["", "lamp", "!?", "lamp", "sofa", ""])
    close = resemblance(signed)
    assert close[1, 3] == 1.0
    assert close[1, 4] < 0.2
    assert not close[0].any()
    assert not close[:, [0, 2, 5]].any()
    assert signatures([]).shape == (0, WIDTH)
    assert not signatures(["", " "]).any()


def test_chinese_is_compared_by_its_characters() -> None:
    one, two = "红色 台灯，适合阅读和学习的好灯", "红色 台灯，适合阅读和学习的好灯！包邮"
    close = resemblance(signatures([one, two, "一张舒适的灰色沙发"]))
    assert close[0, 1] > 0.6
    assert close[0, 2] < 0.2
