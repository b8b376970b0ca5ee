"""The file of rules: what is sound, when a rule holds, and reading it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from funnel.errors import BadConfig
from funnel.rulebook import Rule, RuleBook, read_rules

GOOD = """
[[rule]]
name = "launch"
do = "pin"
items = ["a", "b"]
place = 1
queries = ["Wireless  Mouse"]
scenes = ["search"]
since = 2026-01-02T00:00:00Z
until = 2026-01-03

[[rule]]
name = "cheap"
do = "boost"
where = 'brand = "Acme" and price < 10'
by = 1.5
"""
DAY = 86_400_000
SINCE = 1767312000000  # 2026-01-02T00:00:00Z


def written(path: Path, text: str) -> Path:
    (path / "rules.toml").write_text(text)
    return path / "rules.toml"


def test_rules_are_read_in_their_order(tmp_path: Path) -> None:
    rules = read_rules(written(tmp_path, GOOD))
    assert [(rule.name, rule.do) for rule in rules] == [("launch", "pin"), ("cheap", "boost")]


def test_a_rule_holds_for_its_queries_scenes_and_times(tmp_path: Path) -> None:
    launch = read_rules(written(tmp_path, GOOD))[0]
    assert launch.holds("search", "  wireless MOUSE ", SINCE)
    assert launch.holds("search", "wireless mouse", SINCE + DAY - 1)
    assert not launch.holds("search", "wireless mouse", SINCE - 1)
    assert not launch.holds("search", "wireless mouse", SINCE + DAY)
    assert not launch.holds("search", "wireless mouse pad", SINCE)
    assert not launch.holds("home", "wireless mouse", SINCE)
    words = Rule(name="w", do="block", items=("a",), words=("Mouse", "red"))
    assert words.holds("home", "a RED wireless mouse", 0)
    assert not words.holds("home", "a red mousepad", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\ndo = "pin"\nitems = ["a"]', "rule 'x': place"),
        ('name = "x"\ndo = "pin"\nwhere = "price < 1"\nplace = 1', "pins name their items"),
        ('name = "x"\ndo = "boost"\nitems = ["a"]', "boost needs by, above 1"),
        ('name = "x"\ndo = "bury"\nitems = ["a"]\nby = 2.0', "bury needs by below 1"),
        ('name = "x"\ndo = "block"\nitems = ["a"]\nby = 0.5', "by goes with boost and bury"),
        ('name = "x"\ndo = "block"', "is on no items"),
        ('name = "x"\ndo = "hide"\nitems = ["a"]', "'pin', 'boost', 'bury', 'block' or 'only'"),
        ('name = "x"\ndo = "block"\nitmes = ["a"]', "rule.0.itmes"),
        ('name = "x"\ndo = "block"\nwhere = "price <"', "where: "),
        (
            'name = "x"\ndo = "block"\nitems = ["a"]\nsince = 2026-01-02\nuntil = 2026-01-01',
            "is not before until",
        ),
        ('name = "x', "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadConfig, match=r"rules\.toml") as caught:
        read_rules(written(tmp_path, f"[[rule]]\n{text}\n"))
    assert said in str(caught.value)


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    text = '[[rule]]\nname = "x"\ndo = "block"\nitems = ["a"]\n'
    with pytest.raises(BadConfig, match="two of the name 'x'"):
        read_rules(written(tmp_path, text + text))


def test_a_missing_file_is_an_error_at_first(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read"):
        RuleBook(tmp_path / "rules.toml")


def test_a_changed_file_is_read_again_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, GOOD)
    book = RuleBook(path)
    assert not book.refresh()
    replaced(path, GOOD.replace("cheap", "dear"))
    assert book.refresh()
    assert [rule.name for rule in book.rules] == ["launch", "dear"]
    replaced(path, "[[rule]]\nname = 1")
    assert not book.refresh()
    assert "the rules stay as they were" in caplog.text
    assert [rule.name for rule in book.rules] == ["launch", "dear"]
    path.unlink()
    assert not book.refresh()
    assert len(book.rules) == 2


def replaced(path: Path, text: str) -> None:
    """As editors do it: another file takes the name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)
