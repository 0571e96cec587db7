"""The facts that `jaxcnn models` shows are those of the models."""

import pytest
from make_counts import counts
from table_of_models import TABLE

from jaxcnn.models import facts, list_models


@pytest.mark.parametrize("name", list_models())
def test_counts_agree_with_the_published_ones(name):
    found, published = facts(name), TABLE[name]
    assert found.params == published.params
    if "." in published.macs:
        digits = len(published.macs.partition(".")[2])
        assert f"{found.macs / 1e9:.{digits}f}" == published.macs
    else:
        assert found.macs == int(published.macs)
    assert 1989 <= found.year <= 2026
    assert found.authors
    assert found.title


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "vgg11", "densenet121"])
def test_counts_are_those_of_the_model(name):
    assert counts(name) == {"params": facts(name).params, "macs": facts(name).macs}
