"""Which backend computes a hash grid: what auto takes, what users are told, what checkpoints know of it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer import generators
from scaledreamer.config import GeneratorSettings, differing_keys, free_settings, load_config
from scaledreamer.exported import start_from
from scaledreamer.fields import hash_grid_backend
from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.fields.hash_grid_backend import INSTALL, choose_backend
from scaledreamer.weights.places import ASSETS

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice is remembered, before and after, and no backend imported."""
    package = sys.modules["scaledreamer.fields"]
    for name in ("hash_grid_triton", "hash_grid_tcnn"):
        monkeypatch.delitem(sys.modules, f"scaledreamer.fields.{name}", raising=False)
        monkeypatch.delattr(package, name, raising=False)
    hash_grid_backend._choose.cache_clear()
    yield
    hash_grid_backend._choose.cache_clear()


def put_module(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_auto_is_torch_on_a_cpu_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = choose_backend("auto", CPU)
    assert (chosen.name, chosen.line) == ("torch", "hash grid: plain torch on cpu")


def test_auto_falls_back_on_a_gpu_without_triton_and_says_so_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.warns(UserWarning, match="triton is not installed, so plain torch.*pip install triton"):
        assert choose_backend("auto", CUDA).name == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend("auto", CUDA).line == "hash grid: plain torch on cuda"


def test_auto_is_triton_on_a_gpu_and_torch_where_runs_must_repeat(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    from scaledreamer.fields import hash_grid_triton

    monkeypatch.setattr(hash_grid_triton, "try_on", lambda device: None)
    assert choose_backend("auto", CUDA).name == "triton"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert choose_backend("auto", CUDA).name == "torch"
    with pytest.raises(ValueError, match="'triton', which adds up gradients in any order.*choose 'torch'"):
        choose_backend("triton", CUDA)


@pytest.mark.parametrize("name", ["triton", "tinycudann"])
def test_a_missing_one_asked_for_by_name_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    grid = HashGrid(num_levels=2, log2_table_size=4, backend=name)
    with pytest.raises(ValueError) as error:
        grid(torch.zeros(1, 3))
    message = str(error.value)
    assert message.startswith(f"backend is '{name}', and {name} is not installed: choose 'auto' or 'torch'")
    assert INSTALL[name] in message
    config = load_config(None, [f"generator.hyper_ingp.grid_backend={name}"])
    with pytest.raises(
        ValueError, match=f"^generator.hyper_ingp.grid_backend is '{name}', and {name} is not"
    ):
        generators.backend_line(config.generator, CPU)


def test_an_import_that_raises_environment_error_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As tinycudann's does on a machine without a GPU; nor is the backend's own then an ImportError."""
    put_module(monkeypatch, tmp_path, "tinycudann", "raise EnvironmentError('Unknown compute capability.')")
    with pytest.raises(EnvironmentError, match="Unknown compute capability"):
        import scaledreamer.fields.hash_grid_tcnn  # noqa: F401
    with pytest.raises(ValueError, match=r"does not work here \(OSError: Unknown compute capability\)"):
        choose_backend("tinycudann", CUDA)


def test_one_that_needs_a_gpu_says_so_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(ValueError, match="'triton', and it needs a GPU, while the grid is on cpu"):
        choose_backend("triton", CPU)


def test_auto_falls_back_where_triton_is_installed_and_fails(monkeypatch: pytest.MonkeyPatch):
    """As without a C compiler, which it needs while it runs."""
    pytest.importorskip("triton")
    from scaledreamer.fields import hash_grid_triton

    def fail(device: str) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC.")

    monkeypatch.setattr(hash_grid_triton, "try_on", fail)
    with pytest.warns(UserWarning, match=r"does not work here \(RuntimeError: Failed to find C compiler"):
        assert choose_backend("auto", CUDA).name == "torch"


def test_exports_and_checkpoints_do_not_depend_on_it():
    """The choice is the machine's: it is not exported, and a run may go on with another."""
    section = load_config(None, []).generator.hyper_ingp
    settings = section.model_dump() | {"condition_dim": 8}
    generator: Any = generators.make("hyper_ingp", settings | {"grid_backend": "triton"})
    assert set(settings) - set(generator.config) == free_settings(type(section)) == {"grid_backend"}
    other = generators.make("hyper_ingp", settings | {"grid_backend": "torch"})
    other.load_state_dict(generator.state_dict())
    old, new = (
        load_config(None, [f"generator.hyper_ingp.grid_backend={name}"]).model_dump()
        for name in ("triton", "auto")
    )
    assert differing_keys(old, new) == []


def test_a_start_may_be_another_machines():
    shipped = str(ASSETS / "tiny_generator")
    index = json.loads((ASSETS / "tiny_generator" / "model_index.json").read_text())["generator"]
    generator = generators.make(index["name"], index["settings"] | {"grid_backend": "triton"})
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    start_from(generator, GeneratorSettings(name=index["name"]), shipped)
    assert all(bool(parameter.any()) for parameter in generator.parameters())
