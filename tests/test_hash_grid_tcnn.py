"""The adapter of tiny-cuda-nn on a stand-in that follows its conventions: its grid.h, and its bindings'
modules.py. The stand-in computes with the naive loop of `reference_fields`.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledreamer.fields import hash_grid_backend, hash_grid_torch
from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.fields.pyramid import Pyramid, make_pyramid
from tests.support import reference_fields

SHAPE = {"num_levels": 3, "base_resolution": 4, "growth": 1.58, "log2_table_size": 8}
TWIN = "scaledreamer.fields.hash_grid_tcnn"


class Encoding(nn.Module):
    """Parameters are one flat vector; batches are padded (to multiples of 256, here of 8), features too."""

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: Any = None
    ) -> None:
        super().__init__()
        assert n_input_dims == 3 and encoding_config["otype"] == "HashGrid"
        assert encoding_config["interpolation"] == "Linear"
        self.config, self.dtype = encoding_config, dtype or torch.half
        self.width = encoding_config["n_features_per_level"]
        self.n_output_dims = encoding_config["n_levels"] * self.width
        num_entries = 0
        for level in range(encoding_config["n_levels"]):
            growth = torch.tensor(encoding_config["per_level_scale"], dtype=torch.float32).log2()
            scale = float((level * growth).exp2() * encoding_config["base_resolution"] - 1)
            resolution = int(-(-scale // 1)) + 1
            num_entries += min((resolution**3 + 7) // 8 * 8, 2 ** encoding_config["log2_hashmap_size"])
        self.params = nn.Parameter(torch.rand(num_entries * self.width))

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, [0, 0, 0, -len(x) % 8])
        table = self.params.to(self.dtype).to(torch.float32).view(-1, self.width)
        features = reference_fields.hash_grid(
            table,
            padded * 2 - 1,
            num_levels=self.config["n_levels"],
            log2_table_size=self.config["log2_hashmap_size"],
            base_resolution=self.config["base_resolution"],
            growth=self.config["per_level_scale"],
        )
        return nn.functional.pad(features, [0, 3]).to(self.dtype)[: len(x), : self.n_output_dims]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter, importing the stand-in."""
    stand_in: Any = types.ModuleType("tinycudann")
    stand_in.Encoding, stand_in.__version__ = Encoding, "1.7"
    monkeypatch.setitem(sys.modules, "tinycudann", stand_in)
    module = importlib.import_module(TWIN)
    monkeypatch.setattr(module, "runs_on", lambda device: True)
    hash_grid_backend._choose.cache_clear()
    yield module
    forget()


def forget() -> None:
    """As if neither adapter nor choice had been made."""
    hash_grid_backend._choose.cache_clear()
    if sys.modules.pop(TWIN, None) is not None:
        delattr(sys.modules["scaledreamer.fields"], "hash_grid_tcnn")


def case() -> tuple[Pyramid, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    pyramid = make_pyramid(**SHAPE)
    table = torch.randn(pyramid.num_entries, 2, generator=random).requires_grad_()
    points = (torch.rand(13, 3, generator=random) * 2.4 - 1.2).requires_grad_()
    return pyramid, table, points


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_values_and_gradients_equal_the_torch_backend(backend: Any, dtype: torch.dtype, tolerance: float):
    pyramid, table, points = case()
    outcomes = []
    for encode in (backend.encode, hash_grid_torch.encode):
        features = encode(table, points, pyramid, dtype)
        assert features.dtype == dtype and features.shape == (13, 6)
        upstream = torch.randn(13, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
        outcomes.append([features.detach(), *torch.autograd.grad(features, (table, points), upstream)])
    for ours, theirs in zip(*outcomes, strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert float(error) < tolerance


def test_parameters_convert_both_ways(backend: Any):
    """A table is the vector of a grid of its own: same features, and back again the same table."""
    pyramid, table, points = case()
    encoding = Encoding(3, backend.encoding_config(pyramid, 2), dtype=torch.float32)
    flat = backend.to_tcnn(table, pyramid)
    assert flat.shape == encoding.params.shape
    encoding.params = nn.Parameter(flat.detach().clone())
    inside = points.detach().clamp(-1, 1)
    torch.testing.assert_close(encoding((inside + 1) / 2), hash_grid_torch.encode(table, inside, pyramid))
    assert torch.equal(backend.from_tcnn(encoding.params, pyramid), table)


def test_offsets_are_multiples_of_8_and_sizes_must_fit(backend: Any):
    pyramid, table, _ = case()
    assert pyramid.entries == (64, 256, 256) and pyramid.starts == (0, 64, 320)
    odd = make_pyramid(num_levels=2, base_resolution=5, growth=1.4, log2_table_size=12)
    assert odd.entries == (128, 344) and odd.starts[1] == 128  # 5^3 = 125 and 7^3 = 343
    with pytest.raises(ValueError, match="the table has 576 entries, its levels have 472"):
        backend.to_tcnn(table, odd)
    with pytest.raises(ValueError, match="1153 parameters do not belong to a grid of 576 entries"):
        backend.from_tcnn(torch.zeros(1153), pyramid)


def test_the_module_runs_on_it_and_keeps_its_state(backend: Any):
    grid = HashGrid(features_per_level=2, **SHAPE, backend="tinycudann")
    other = HashGrid(features_per_level=2, **SHAPE, backend="torch")
    assert list(grid.state_dict()) == ["table"]
    other.load_state_dict(grid.state_dict())
    points = case()[2].detach()
    torch.testing.assert_close(grid(points), other(points))
    assert [name for name, _ in grid.named_parameters()] == ["table"]
    line = hash_grid_backend.choose_backend("tinycudann", points.device).line
    assert line == "hash grid: tinycudann 1.7 on cpu"


def test_points_that_are_not_finite_and_second_derivatives(backend: Any):
    pyramid, table, points = case()
    (gradient,) = torch.autograd.grad(backend.encode(table, points, pyramid).sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once only"):
        gradient.square().sum().backward()
    far = torch.tensor([[float("inf"), 0.2, float("-inf")]])
    face = torch.tensor([[1, 0.2, -1]])
    torch.testing.assert_close(backend.encode(table, far, pyramid), backend.encode(table, face, pyramid))


@pytest.mark.parametrize(
    ("features", "dtype", "message"),
    [
        (3, torch.float32, "features_per_level is 3: tinycudann takes 1, 2, 4, 8"),
        (2, torch.bfloat16, "float32 or float16, got torch.float32 and torch.bfloat16"),
    ],
)
def test_what_it_does_not_have_is_named(backend: Any, features: int, dtype: torch.dtype, message: str):
    pyramid, _, points = case()
    table = torch.zeros(pyramid.num_entries, features)
    with pytest.raises(ValueError, match=message):
        backend.encode(table, points, pyramid, dtype)


def test_a_level_of_another_size_is_refused(backend: Any, monkeypatch: pytest.MonkeyPatch):
    """As where float32 rounds a scale across a whole number."""

    class Rounded(Encoding):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.params = nn.Parameter(torch.zeros(8))

    monkeypatch.setattr(sys.modules["tinycudann"], "Encoding", Rounded)
    pyramid, table, points = case()
    backend._encoding.cache_clear()
    with pytest.raises(ValueError, match="8 parameters instead of 1152.*Change growth slightly"):
        backend.encode(table, points, pyramid)
