"""The Triton backend against the torch backend: on a GPU, or else in Triton's interpreter, in its own process
(whose tests are the ones below that are skipped here), and compiled for GPUs that are not here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from scaledreamer.fields import hash_grid_torch, hash_grid_triton  # noqa: E402
from scaledreamer.fields.hash_grid import HashGrid  # noqa: E402
from scaledreamer.fields.pyramid import Pyramid, make_pyramid  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(
    DEVICE == "cpu" and not IS_INTERPRETED, reason="runs in test_kernels_in_the_interpreter"
)
compiles = pytest.mark.skipif(IS_INTERPRETED, reason="nothing is compiled in the interpreter")
SHAPE = {"num_levels": 4, "base_resolution": 4, "growth": 1.58}  # resolutions 4, 7, 10, 16


def case(
    features: int = 2, log2_table_size: int = 9, num_points: int = 40, **settings: Any
) -> tuple[Pyramid, Tensor, Tensor]:
    """Levels, table, and points: inside, outside, on faces and corners."""
    random = torch.Generator().manual_seed(0)
    pyramid = make_pyramid(log2_table_size=log2_table_size, **{**SHAPE, **settings})
    table = torch.randn(pyramid.num_entries, features, generator=random)
    points = torch.rand(num_points, 3, generator=random) * 2.4 - 1.2
    points[:3] = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, 0.3, -1]])
    return pyramid, table.to(DEVICE).requires_grad_(), points.to(DEVICE).requires_grad_()


def outcome(encode: Any, table: Tensor, points: Tensor, pyramid: Pyramid, dtype: Any = None) -> list[Tensor]:
    """Features, and the gradients of table and points."""
    features = encode(table, points, pyramid, dtype)
    upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
    return [features.detach(), *torch.autograd.grad(features, (table, points), upstream)]


@compiles
@pytest.mark.skipif(DEVICE == "cuda", reason="run on the GPU itself")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@runs
@pytest.mark.parametrize(
    ("features", "log2_table_size", "levels"), [(2, 9, 4), (4, 15, 2), (1, 3, 1), (3, 9, 2), (16, 9, 1)]
)
def test_values_and_gradients_equal_the_torch_backend(features: int, log2_table_size: int, levels: int):
    """Dense and hashed levels; one feature, an odd number, and more than fill a sector."""
    pyramid, table, points = case(features, log2_table_size, num_levels=levels)
    got = outcome(hash_grid_triton.encode, table, points, pyramid)
    expected = outcome(hash_grid_torch.encode, table, points, pyramid)
    for ours, theirs in zip(got, expected, strict=True):
        assert float(theirs.norm()) > 1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@runs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_the_torch_backend(dtype: torch.dtype):
    """Entries and features are rounded alike, and gradients are added up in float32 by both."""
    pyramid, table, points = case(num_levels=3)
    got = outcome(hash_grid_triton.encode, table, points, pyramid, dtype)
    expected = outcome(hash_grid_torch.encode, table, points, pyramid, dtype)
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    for ours, theirs, rounding in zip(got, expected, (torch.finfo(dtype).eps, 1e-5, 1e-5), strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert float(error) < rounding


@runs
def test_copies_of_coarse_levels_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    """With more than one block of points, the last one not full."""
    pyramid, table, points = case(num_points=140)
    expected = outcome(hash_grid_torch.encode, table, points, pyramid)[1]
    monkeypatch.setattr(hash_grid_triton, "_MIN_POINTS_FOR_COPIES", 1)
    copies = hash_grid_triton._copies(pyramid, len(points))
    assert copies["NUM_COARSE"] == 2 and copies["COARSE_ROWS"] == 64 + 344
    got = outcome(hash_grid_triton.encode, table, points, pyramid)[1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@runs
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NumPy's word on NaN as an integer
def test_points_that_are_not_finite_read_nothing_outside_of_the_table():
    pyramid, table, points = case()
    inf, nan = float("inf"), float("nan")
    wild = torch.tensor([[inf, 0.2, -inf], [nan, 0.1, 0.2], [0.1, 0.2, nan], [0.3, 0.1, 0.2]], device=DEVICE)
    for encode in (hash_grid_torch.encode, hash_grid_triton.encode):
        features, grad, _ = outcome(encode, table, wild.requires_grad_(), pyramid)
        face = torch.tensor([[1, 0.2, -1]], device=DEVICE)
        torch.testing.assert_close(features[0], encode(table, face, pyramid)[0])
        assert bool(features[1:3].isnan().all()) and bool(features[3].isfinite().all())
        assert 0 < int(grad.isnan().any(1).sum()) <= 2 * 8 * 4


@runs
def test_no_points_and_no_second_derivative():
    pyramid, table, points = case()
    features, grad, _ = outcome(hash_grid_triton.encode, table, points[:0], pyramid)
    assert features.shape == (0, 8) and not bool(grad.any())
    features = hash_grid_triton.encode(table, points[:4], pyramid)
    (gradient,) = torch.autograd.grad(features.sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once only"):
        gradient.square().sum().backward()


@runs
def test_the_module_runs_on_it_and_keeps_its_state():
    grid = HashGrid(features_per_level=2, log2_table_size=9, **SHAPE, backend="triton").to(DEVICE)
    backend = HashGrid(features_per_level=2, log2_table_size=9, **SHAPE, backend="torch").to(DEVICE)
    backend.load_state_dict(grid.state_dict())
    points = case()[2].detach().view(2, 20, 3)
    torch.testing.assert_close(grid(points), backend(points))
    with pytest.raises(ValueError, match="takes points in float32.*float64"):
        grid(points.double())


@compiles
@pytest.mark.parametrize(("features", "dtype"), [(2, "fp16"), (4, "fp32")])
def test_kernels_compile_to_vectors_without_shared_memory(
    features: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What they are fast by, for an H100 that need not be here: an entry is one load and one addition, and
    threads never wait for each other."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pyramid = make_pyramid(num_levels=16, log2_table_size=19, base_resolution=16, growth=1.447)
    entries = torch.empty(1, features, dtype={"fp16": torch.float16, "fp32": torch.float32}[dtype])
    sizes = hash_grid_triton._sizes(pyramid, entries) | {"BLOCK": 128}
    copies = hash_grid_triton._copies(pyramid, 2**20) | {"NUM_ROWS": pyramid.num_entries}
    for kernel, tensors, more in (
        (hash_grid_triton._encode_kernel, {"entries": dtype, "features": dtype}, {}),
        (hash_grid_triton._table_kernel, {"grad": dtype, "sums": "fp32"}, copies),
    ):
        names: Any = kernel.arg_names
        pointers = {"points": "fp32", **tensors, "scales": "fp32", "levels": "i32"}
        values = {(names.index(name),): value for name, value in (sizes | more).items()}
        source = ASTSource(
            kernel,
            {name: f"*{kind}" for name, kind in pointers.items()}
            | {"num_points": "i32"}
            | {name: "constexpr" for name in sizes | more},
            constexprs=values,
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
        )
        options = {"num_warps": 4, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.metadata.shared == 0 and "bar.sync" not in compiled.asm["ptx"]
        wide = {("fp16", 2): "ld.global.b32", ("fp32", 4): "ld.global.v4.b32"}[dtype, features]
        if more:
            assert compiled.asm["ptx"].count(f"red.global.gpu.relaxed.add.v{features}.f32") == 8
        else:
            assert compiled.asm["ptx"].count(wide) >= 8
