import pytest

from tests.rank.shop import shop


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A shop with a trained prerank."""
    from jobs import train_prerank

    work = shop(tmp_path_factory.mktemp("shop"))
    train_prerank.run(work)
    return work
