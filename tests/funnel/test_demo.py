"""What the demo writes before it builds."""

from __future__ import annotations

from pathlib import Path

from funnel.config import load, parse
from funnel.demo import settled


def test_the_config_of_the_demo_can_be_read_again(tmp_path: Path) -> None:
    own = {"data": {"numeric": ["price"]}}
    config, file = settled(parse({}), tmp_path / "shop", own)
    assert load(file) == config
    assert config.build.root == str(tmp_path / "shop/generations")
    assert config.data.numeric == ("price",)
