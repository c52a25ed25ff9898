import pytest
from certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def tls(authority):
    """A server's TLS settings that an ordinary client accepts once it trusts `authority`."""
    return authority.server_context("127.0.0.1", "localhost", "::1")
