"""What benchmarks take the columns of a data set to mean."""

from __future__ import annotations

from pathlib import Path

from benchmarks.shop import configured
from funnel.config import Config
from funnel.demo import SHOP

OWN = {"build": {"root": "kept"}, "log": {"dir": ""}}


def test_a_simulated_shop_needs_no_config_and_a_config_overrules_it(tmp_path: Path) -> None:
    known = Config().data
    assert configured(tmp_path, None, OWN).data == known
    (tmp_path / "world.json").write_text("{}")
    shop = configured(tmp_path, None, OWN)
    assert list(shop.data.numeric) == SHOP["numeric"]
    assert list(shop.data.user_categorical) == SHOP["user_categorical"]
    assert (shop.build.root, shop.log.dir) == ("kept", "")
    file = tmp_path / "funnel.toml"
    file.write_text("[data]\nnumeric = ['price']\n")
    assert configured(tmp_path, file, OWN).data == known.model_copy(update={"numeric": ("price",)})
