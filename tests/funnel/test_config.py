from pathlib import Path

import pytest

from funnel.config import ACTIONS, Config, load, parse, settings
from funnel.errors import BadConfig


def test_a_misspelt_key_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"scenes\.search\.recall\.kep; known: keep, budget_ms"):
        parse({"scenes": {"search": {"recall": {"kep": 3}}}})
    with pytest.raises(BadConfig, match=r"unknown setting stor; known: data, build"):
        parse({"stor": {}})


def test_a_wrong_type_names_the_key_and_the_value(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[rank]\nepochs = "many"\n')
    with pytest.raises(BadConfig, match=r"f\.toml: rank\.epochs = 'many'"):
        load(file)
    file.write_text("[rank\n")
    with pytest.raises(BadConfig, match="not valid TOML"):
        load(file)
    with pytest.raises(BadConfig, match="cannot read the config file"):
        load(tmp_path / "none.toml")


def test_settings_that_contradict_each_other_are_errors() -> None:
    with pytest.raises(BadConfig, match="unknown action 'klick'; known: impression"):
        parse({"data": {"positive": {"klick": 1.0}}})
    with pytest.raises(BadConfig, match=r"scenes\.deals\.recall\.channels: no channel"):
        parse({"scenes": {"deals": {}}})


def test_sections_merge_over_the_defaults() -> None:
    config = parse({"scenes": {"home": {"recall": {"channels": {"item_cf": {"limit": 7}}}}}})
    channels = config.scenes["home"].recall.channels
    assert channels["item_cf"].limit == 7
    assert channels["item_cf"].weight == 0.5
    assert channels["popular"].limit == 500
    assert set(config.scenes) == {"search", "home", "similar"}
    text = parse({"data": {"text": {"name": 1.0}}}).data.text
    assert text == {"name": 1.0}  # the columns of another shop are not kept


def test_own_actions_get_codes_after_the_built_in_ones() -> None:
    config = parse({"data": {"actions": ["watch"], "positive": {"watch": 1.0}}})
    assert config.all_actions == (*ACTIONS, "watch")


def test_every_setting_is_listed_and_what_is_listed_can_be_read_back() -> None:
    listed = {key: value for key, value, _ in settings()}
    assert listed["scenes.home.recall.channels.item_cf.limit"] == 1000
    assert listed["rank.width"] == 16
    table: dict[str, object] = {}
    for key, value in listed.items():
        *path, last = key.split(".")
        place = table
        for part in path:
            place = place.setdefault(part, {})  # type: ignore[assignment]
        place[last] = value
    assert parse(table) == Config()
