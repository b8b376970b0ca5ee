import pytest

from tests.rank.shop import shop


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A shop with a trained prerank and a trained rank."""
    from jobs import train_prerank, train_rank

    work = shop(tmp_path_factory.mktemp("shop"))
    train_prerank.run(work)
    train_rank.run(work)
    return work
