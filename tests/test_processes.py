"""Which tests share a process when there are two."""

import pytest


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/end_to_end/test_small_shop.py::test_a[x::y]", "end_to_end"),
        ("tests/jobs/test_als.py::test_b", "jobs"),
        ("tests/rank/test_train.py::test_c", "tests/rank/test_train.py"),
        ("tests/test_setup.py::test_d", "tests/test_setup.py"),
    ],
)
def test_what_shares_fixtures_shares_a_process(request, nodeid, group):
    plugins = request.config.pluginmanager.get_plugins()
    (ours,) = (plugin for plugin in plugins if hasattr(plugin, "Together"))
    assert ours.Together._split_scope(None, nodeid) == group
