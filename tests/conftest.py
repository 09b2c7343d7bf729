import os

# Small models compile faster than they run; the cache is shared by all tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tiny.data_dir(tmp_path_factory.mktemp("datasets"))
