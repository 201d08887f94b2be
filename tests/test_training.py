"""Whole runs: the folder they leave, resuming bit for bit, stopping, refusing, and two ranks against one."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard.summary import scalar

from scaledreamer.cli.train import main
from scaledreamer.config import load_config
from scaledreamer.files import append
from scaledreamer.pipeline import TextTo3D
from scaledreamer.trained_on import TrainedOn
from scaledreamer.training import run as running
from scaledreamer.training.checkpoint import load_newest
from scaledreamer.training.judge import Judge
from scaledreamer.training.metrics import Board
from scaledreamer.training.step import Trainer
from tests.support.judges import Student
from tests.support.random_models import write_random_prior
from tests.support.runs import environment, free_port, write_config
from tests.support.training_fakes import PROMPTS, gradients_of, make_trainer, parameters_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_prior(tmp_path_factory.mktemp("prior"))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def weights(run: Path, step: int, name: str = "parameters") -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def assert_equal_weights(a: Path, b: Path, step: int) -> None:
    for name in ("parameters", "averaged", "optimizer"):
        mine, other = weights(a, step, name), weights(b, step, name)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), name


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_run_leaves_its_folder_and_a_generator_that_loads(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, prior, training__tensorboard=True)
    assert main(["--config", str(config)]) == 0
    run = tmp_path / "run"
    output = capsys.readouterr().out
    assert "step 6/6" in output and "left" in output and "finished 6 steps" in output
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "tensorboard", "samples", "checkpoints", "generator"}
    assert load_config(run / "config.yaml") == load_config(config)
    ticks = lines(run)
    assert [tick["step"] for tick in ticks] == [2, 3, 4, 6]
    for name in (
        "gradient/norm",
        "gradient/norm_clipped",
        "prior0/clipped_fraction",
        "prior0/timestep",
        "lr/generator",
    ):
        assert name in ticks[-1]
    assert {"loss/eikonal", "loss/sparsity", "seconds/prior", "seconds/step", "schedule/t_min"} <= set(
        ticks[-1]
    )
    assert [path.name for path in (run / "samples").iterdir()] == ["step-00000006.png"]
    assert_tensorboard_has_everything(run / "tensorboard")
    pipe = TextTo3D.from_pretrained(run, device="cpu")
    assert pipe.step == 6
    words = frozenset(word for prompt in PROMPTS for word in prompt.split())
    assert pipe.trained_on == TrainedOn("prompts.txt", len(PROMPTS), words)
    exported, averaged = pipe.generator.state_dict(), weights(run, 6, "averaged")
    assert all(torch.equal(exported[name], averaged[name].half().float()) for name in averaged)
    assert main(["--config", str(config)]) == 0
    assert "going on from step 6" in capsys.readouterr().out


def assert_tensorboard_has_everything(folder: Path) -> None:
    """Scalars in groups, images, texts of configuration and prompts, and the table of hyper-parameters."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    assert {"gradient/norm", "loss/eikonal", "prior0/timestep", "lr/generator"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("gradient/norm")] == [2, 3, 4, 6]
    assert tags["images"] == ["samples"]
    texts = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("config", "prompts")
    }
    assert "max_steps: 6" in texts["config"] and "a red cat" in texts["prompts"]
    session = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in session and b"generator.hyper_ingp.mlp_width" in session


def test_tensorboard_forgets_the_steps_that_a_resumption_makes_again(tmp_path: Path) -> None:
    for first, steps in ((0, range(1, 6)), (3, [4])):
        board = Board(tmp_path / "tensorboard", first)
        for step in steps:
            board.write(step, [scalar("loss", float(first))])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("loss")]
    assert values == [(1, 0.0), (2, 0.0), (3, 0.0), (4, 3.0)]


@pytest.mark.parametrize("size", [None, 3])
def test_append_to_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, size: int | None) -> None:
    path, (soft, hard) = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        path.write_bytes(b"x" * size)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            append(path, b"y" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert caught.value.filename == str(path)
    assert (path.stat().st_size if path.exists() else None) == size


def test_dry_run_prints_everything_and_writes_nothing(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, prior)
    assert main(["--config", str(config), "--dry-run", "training.batch_size=2"]) == 0
    output = capsys.readouterr().out
    assert yaml.safe_load(output.split("\nparameters:")[0])["training"]["batch_size"] == 2
    assert "total: " in output and "prompts: 12" in output
    batch = output.split("first batch")[1].splitlines()[1:]
    assert len(batch) == 2 and all(
        " view'" in line and "azimuth" in line and "; timestep 0." in line for line in batch
    )
    assert not (tmp_path / "run").exists()


def test_words_that_the_conditioner_does_not_know_are_said(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*prompts: str) -> list[str]:
        (tmp_path / "words.txt").write_text("\n".join(prompts), encoding="utf-8")
        config = str(write_config(tmp_path, prior))
        words = "prompts={file: " + str(tmp_path / "words.txt") + "}"
        assert (
            main(["--config", config, "--dry-run", "conditioner={name: tinyworld, model: null}", words]) == 0
        )
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: words of")]

    assert said("a red cat", "a blue mug") == []
    assert said("a red cat", "a wombat on a skateboard", "a wombat") == [
        "note: words of 2 of 3 prompts that the conditioner does not know and will misread: "
        "wombat, skateboard"
    ]
    assert said("青蛙")[0].startswith("note: words of the prompt that") and "青蛙" in said("青蛙")[0]


def stop_before(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal just before a step."""
    original = Trainer.step

    def interrupted(self: Trainer, at: int, **arguments: Any) -> Any:
        if at == step:
            signal.raise_signal(number)
            monkeypatch.setattr(Trainer, "step", original)
        return original(self, at, **arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.mark.parametrize(("zero_stage", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    prior: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    zero_stage: int,
    number: signal.Signals,
) -> None:
    config = write_config(tmp_path, prior, training__zero_stage=zero_stage, training__checkpoint_every=100)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(["--config", str(config), f"training.output={straight}"]) == 0
    stop_before(2, number, monkeypatch)
    assert main(["--config", str(config), f"training.output={resumed}"]) == 0
    assert f"stopped on {number.name} after step" in capsys.readouterr().out
    assert main(["--config", str(config), f"training.output={resumed}"]) == 0
    assert "going on from step" in capsys.readouterr().out
    assert_equal_weights(straight, resumed, 6)
    assert lines(resumed)[-1]["gradient/norm"] == lines(straight)[-1]["gradient/norm"]
    assert sorted(tick["step"] for tick in lines(resumed)) == [tick["step"] for tick in lines(resumed)]


def test_a_method_with_state_goes_on_from_the_runs_checkpoint(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaledreamer.methods.make", lambda settings, timesteps: Student())
    config = write_config(tmp_path, prior, training__checkpoint_every=100)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(["--config", str(config), f"training.output={straight}"]) == 0
    stop_before(2, signal.SIGINT, monkeypatch)
    assert main(["--config", str(config), f"training.output={resumed}"]) == 0
    assert main(["--config", str(config), f"training.output={resumed}"]) == 0
    assert_equal_weights(straight, resumed, 6)
    methods = [
        load_file(run / "checkpoints" / "step-00000006" / "methods.safetensors")
        for run in (straight, resumed)
    ]
    assert methods[0]["0/memory"].any() and torch.equal(methods[0]["0/memory"], methods[1]["0/memory"])


def test_a_run_of_an_earlier_version_is_not_resumed_with_settings_that_cannot_be_compared(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, prior, training__max_steps=3))
    assert main(["--config", config]) == 0
    index = tmp_path / "run" / "checkpoints" / "step-00000003" / "checkpoint.json"
    stored = json.loads(index.read_text())
    stored["config"]["distillation"]["method"] = "sds"
    index.write_text(json.dumps(stored))
    capsys.readouterr()
    assert main(["--config", config]) == 2
    error = capsys.readouterr().err
    assert "run was trained by an earlier version" in error and error.count("\n") == 1
    assert "distillation.method is now priors.0.method" in error and "generator.start=" in error


def test_time_limit_stops_and_saves(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, prior, training__minutes=1e-6)
    assert main(["--config", str(config)]) == 0
    assert "stopped at the time limit after step 1 of 6, saved" in capsys.readouterr().out
    checkpoint, _ = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 1


def test_harmless_settings_may_change_between_a_run_and_its_resumption(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, prior, training__max_steps=1))
    assert main(["--config", config]) == 0
    harmless = ["training.max_steps=2", "training.log_every=1", "training.zero_stage=1"]
    assert main(["--config", config, *harmless]) == 0
    assert "finished 2 steps" in capsys.readouterr().out


def test_damaged_checkpoint_is_passed_over(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, prior))
    assert main(["--config", config, "training.output=" + str(tmp_path / "straight")]) == 0
    assert main(["--config", config]) == 0
    newest = tmp_path / "run" / "checkpoints" / "step-00000006" / "parameters.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])
    assert main(["--config", config]) == 0
    output = capsys.readouterr().out
    assert "passed over: " in output and "going on from step 3" in output
    assert_equal_weights(tmp_path / "straight", tmp_path / "run", 6)


def test_steps_that_are_not_finite_end_the_run_with_the_state_before(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Judge.image_gradient

    def broken(self: Judge, images: Any, observation: Any, draws: Any, step: int) -> Any:
        gradient, stats, estimate = original(self, images, observation, draws, step)
        return (gradient * float("nan") if step >= 2 else gradient), stats, estimate

    monkeypatch.setattr(Judge, "image_gradient", broken)
    config = str(write_config(tmp_path, prior, training__max_skipped_steps=2))
    assert main(["--config", config]) == 2
    printed = capsys.readouterr()
    assert "step 2 skipped, not finite: " in printed.out
    assert "2 steps in a row were not finite, since step 2; stopped; the state before" in printed.err
    assert TextTo3D.from_pretrained(tmp_path / "run", device="cpu").step == 2
    checkpoint, _ = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 2
    monkeypatch.setattr(Judge, "image_gradient", original)
    assert main(["--config", config]) == 0
    assert main(["--config", config, "training.output=" + str(tmp_path / "straight")]) == 0
    assert_equal_weights(tmp_path / "straight", tmp_path / "run", 6)


def test_training_starts_from_an_exported_generator_of_the_same_settings(prior: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, prior)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["--config", str(config), f"training.output={first}"]) == 0
    start = [f"generator.start={first}", "optimizer.lr=0", "optimizer.background_lr=0"]
    assert main(["--config", str(config), f"training.output={second}", *start]) == 0
    made, found = (
        load_file(run / "generator" / "generator" / "model.safetensors") for run in (first, second)
    )
    assert made.keys() == found.keys()
    assert all(torch.equal(made[name], found[name]) for name in made)
    record = TextTo3D.from_pretrained(second, device="cpu").trained_on
    assert record is not None and record.num_prompts == 2 * len(PROMPTS)


def test_best_generator_by_validation_is_kept(prior: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, prior, evaluation__every=2, evaluation__metric="up_and_down"))
    seen: list[int] = []

    def evaluate(scene_of: running.SceneOf, step: int) -> dict[str, float]:
        seen.append(step)
        assert scene_of(["a red cat", "a blue cube"]).sdf(torch.zeros(2, 5, 3)).shape == (2, 5)
        return {"up_and_down": {2: 0.1, 4: 0.9, 6: 0.3}[step], "other": 1.0}

    running.prepare(config, evaluate).train()
    assert seen == [2, 4, 6]
    run = tmp_path / "run"
    assert TextTo3D.from_pretrained(run / "best", device="cpu").step == 4
    assert TextTo3D.from_pretrained(run / "generator", device="cpu").step == 6
    assert TextTo3D.from_pretrained(run, device="cpu").step == 4
    scores = [tick["validation/up_and_down"] for tick in lines(run) if "validation/up_and_down" in tick]
    assert scores == [0.1, 0.9, 0.3]
    checkpoint, _ = load_newest(run / "checkpoints")
    assert checkpoint is not None and checkpoint.best == {"score": 0.9, "step": 4}


# --- processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_launched_ranks_are_killed_and_one_without_a_compiler_goes_on(
    prior: Path, tmp_path: Path
) -> None:
    """SIGKILL to all of the launcher's processes; then one process with an empty PATH, another ZeRO stage."""
    config = write_config(
        tmp_path,
        prior,
        training__max_steps=40,
        training__checkpoint_every=5,
        training__zero_stage=1,
        optimizer__name="sgd",
        optimizer__max_gradient_norm=1.0,
    )
    run, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    launcher = [
        str(Path(sys.executable).parent / "deepspeed"),
        "--num_gpus",
        "2",
        "--master_port",
        str(free_port()),
    ]
    command = [*launcher, "train.py", "--config", str(config)]
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        while not (run / "checkpoints" / "step-00000005").exists() and killed.poll() is None:
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert (run / "checkpoints" / "step-00000005").exists(), (tmp_path / "log").read_text()[-2000:]
    command = [sys.executable, "train.py", "--config", str(config), "training.zero_stage=2"]
    resumed = subprocess.run(
        command, cwd=ROOT, env=environment(PATH=str(empty)), capture_output=True, text=True
    )
    assert "going on from step" in resumed.stdout and "finished 40 steps" in resumed.stdout, resumed.stderr[
        -2000:
    ]
    assert (
        main(["--config", str(config), f"training.output={tmp_path / 'one'}", "training.zero_stage=0"]) == 0
    )
    for name, value in weights(tmp_path / "one", 40).items():
        assert torch.allclose(value, weights(run, 40)[name], rtol=1e-3, atol=1e-5), name


def train_steps(zero_stage: int, accumulation_steps: int) -> dict[str, Any]:
    """Gradients of step 0, then 20 steps of SGD, and the optimizer's state."""
    settings: Any = {"zero_stage": zero_stage, "accumulation_steps": accumulation_steps, "batch_size": 4}
    gradients = gradients_of(make_trainer(batch_size=4, accumulation_steps=accumulation_steps))
    trainer = make_trainer(**settings, optimizer="sgd", max_norm=0.5)
    norms = [trainer.step(step).gradient_norm for step in range(20)]
    state = trainer.engine.optimizer_state()
    flat = torch.cat([value.flatten() for entry in state.values() for value in entry.values()])
    return {"gradients": gradients, "parameters": parameters_of(trainer), "norms": norms, "state": flat}


def losses_of_steps(zero_stage: int) -> list[dict[str, float]]:
    """Logged averages, regularizers among them, of 20 steps with the shipped optimizer."""
    trainer = make_trainer(zero_stage=zero_stage, optimizer="adam", betas=(0.9, 0.99), lr=2e-3)
    logged = []
    for step in range(20):
        norm = trainer.step(step).gradient_norm
        logged.append(trainer.averages.collect(trainer.engine.process) | {"gradient": norm})
    return logged


def rank_main(rank: int, port: int, folder: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    results = {
        f"{stage}-{accumulation}": train_steps(stage, accumulation)
        for stage, accumulation in ((0, 1), (1, 1), (2, 1), (2, 2))
    }
    losses = {f"losses-{stage}": losses_of_steps(stage) for stage in (0, 1, 2)}
    trainer = make_trainer()  # a step that only rank 1 finds not finite is skipped by both
    if rank == 1:
        prior: Any = trainer.judges[0].prior
        encode = prior.encode_image
        prior.encode_image = lambda images, noise=None: encode(images, noise) * float("nan")
    results["skipped"] = {"is_applied": trainer.step(0).is_applied}
    torch.save(results | losses, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_main, (free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    wanted = train_steps(0, 1)
    for name in ("0-1", "1-1", "2-1", "2-2"):
        assert relative(first[name]["gradients"], wanted["gradients"]) < 1e-5
        assert relative(first[name]["parameters"], wanted["parameters"]) < 1e-5
        assert relative(first[name]["state"], wanted["state"]) < 1e-3
        assert first[name]["norms"] == pytest.approx(wanted["norms"], rel=1e-3)
        assert torch.equal(first[name]["parameters"], second[name]["parameters"])
        assert torch.equal(first[name]["state"], second[name]["state"])
    expected = losses_of_steps(0)
    assert {"loss/eikonal", "loss/sparsity", "loss/opaque", "gradient"} <= expected[0].keys()
    for stage in (0, 1, 2):
        for mine, other in zip(first[f"losses-{stage}"], expected, strict=True):
            assert mine == pytest.approx(other, rel=1e-3), stage
    assert first["skipped"] == second["skipped"] == {"is_applied": False}
