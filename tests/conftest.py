"""While testing, shapes and types are checked at every call of the package; one thread: runs repeat."""

from __future__ import annotations

import pytest
from jaxtyping import install_import_hook

# Python's own rule for annotations: an int may stand where a float is asked for.
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("scaledreamer", TYPECHECKER)
pytest.register_assert_rewrite("tests.support")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="skip the tests marked slow")


def pytest_configure() -> None:
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    too_slow = pytest.mark.skip(reason="slow, and --fast was given")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "slow" in item.keywords and config.getoption("--fast"):
            item.add_marker(too_slow)
