from __future__ import annotations

import zlib

import numpy as np

from features.tokens import codes, words, write_tokens


def test_words_ignore_case_and_punctuation():
    assert words("Red-blue SHOE's, 10.5cm (NEW_2)") == [
        *("red", "blue", "shoe", "s", "10", "5cm", "new", "2")
    ]
    assert words("Straße ÉCRAN") == ["strasse", "écran"]
    assert words(" \n👟\x00!") == words("") == []


def test_characters_of_languages_without_spaces_are_words():
    assert words("iPhone手机壳 ケース") == ["iphone", "手", "机", "壳", "ケ", "ー", "ス"]


def test_codes_are_the_distinct_hashes_of_the_words():
    expected = sorted({zlib.crc32(b"red"), zlib.crc32(b"shoe")})
    assert codes("Red shoe, red").tolist() == expected
    assert codes("").dtype == np.uint32


def test_titles_are_written_in_row_order(tmp_path):
    titles = ["a b", None, "", "b"]
    write_tokens(tmp_path, titles)
    offsets = np.load(tmp_path / "tokens.offsets.npy")
    written = np.load(tmp_path / "tokens.codes.npy")
    assert offsets.tolist() == [0, 2, 2, 2, 3]
    for row, title in enumerate(titles):
        own = written[offsets[row] : offsets[row + 1]]
        assert own.tolist() == codes(title or "").tolist()
    write_tokens(tmp_path, [])
    assert np.load(tmp_path / "tokens.offsets.npy").tolist() == [0]
