"""Signatures against the similarity counted out."""

from itertools import pairwise

import numpy as np
import pytest

from features.tokens import words
from rerank import signatures as module
from rerank.signatures import WIDTH, resemblance, signatures

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


def test_agreeing_places_estimate_the_jaccard_similarity() -> None:
    errors = []
    for seed in range(8):
        made = texts(seed)
        close = resemblance(signatures(made, seed=seed))
        for i in range(len(made)):
            for j in range(i):
                a, b = shingles(made[i]), shingles(made[j])
                errors.append(close[i, j] - len(a & b) / len(a | b))
    # One estimate is off by at most 1 / (2 √k) on average of squares, all of them by nothing.
    assert abs(np.mean(errors)) < 0.01
    assert np.sqrt(np.mean(np.square(errors))) < 0.5 / np.sqrt(WIDTH) + 0.01


def test_the_same_words_have_the_same_signature_whatever_stands_between() -> None:
    one, two = signatures(["Red Lamp, for reading!", "red lamp for READING"])
    assert np.array_equal(one, two)


def test_a_signature_does_not_depend_on_the_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [*texts(1, 10), "", "one", "", *texts(2, 10)]
    together = signatures(made)
    assert np.array_equal(together, np.concatenate([signatures([text]) for text in made]))
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
