import pytest

from loadgen.cli.cluster import placed
from loadgen.errors import UsageError

FLAGS = {"ray": "127.0.0.1:9", "nodes": None, "on_node_loss": None}


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/folder",
        "abfss://:hunter2@account.dfs.core.windows.net/container",
        "s3://bucket/folder?region=eu-west-1&secret_key=hunter2",
        "abfss://container@account/x?sas_token=hunter2",
    ],
)
def test_a_stores_uri_with_a_key_in_it_is_refused_and_not_quoted(uri):
    with pytest.raises(UsageError, match=r"^--collect: the URI holds") as refused, placed(FLAGS | {"collect": uri}):
        pass
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["s3://bucket/folder?region=eu-west-1", "file:///tmp/captures"])
def test_a_stores_uri_without_one_comes_as_far_as_the_cluster(uri):
    with pytest.raises(UsageError, match=r"^--ray: "), placed(FLAGS | {"collect": uri}):
        pass
