"""Kill -9 at random moments of a run, and the same command again: bit for bit the uninterrupted training."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.random_models import write_random_prior
from tests.support.runs import write_config

NUM_STEPS, NUM_MOMENTS = 14, 10
PRELOADED = [
    "scaledreamer.training.run",
    "scaledreamer.generators.hyper_ingp",
    "deepspeed",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_ddim",
]


def train(config: Path, output: Path) -> None:
    """A whole run as its own process has it; what it prints goes to a file beside the run."""
    torch.set_num_threads(1)
    from scaledreamer.cli.train import main

    with (
        output.with_suffix(".log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        sys.exit(main(["--config", str(config), f"training.output={output}"]))


def start(config: Path, output: Path) -> multiprocessing.Process:
    """Starts a run in a process that has imported everything already, so that starting takes no seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=train, args=(config, output))
    process.start()
    return process  # type: ignore[return-value]


def finish(config: Path, output: Path) -> None:
    process = start(config, output)
    process.join()
    assert process.exitcode == 0, output.with_suffix(".log").read_text()[-2000:]


def wait_for_step(step: int, run: Path, process: multiprocessing.Process) -> None:
    path = run / "metrics.jsonl"
    while process.is_alive() and not (path.is_file() and path.read_text().count("\n") >= step):
        time.sleep(0.002)


def metrics(run: Path) -> list[str]:
    """Lines of metrics, without the times that things took."""
    return [
        line.partition('"seconds/')[0] for line in (run / "metrics.jsonl").read_text().splitlines() if line
    ]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    prior = write_random_prior(tmp_path / "prior")
    config = write_config(
        tmp_path,
        prior,
        training__max_steps=NUM_STEPS,
        training__checkpoint_every=2,
        training__log_every=1,
    )
    straight = tmp_path / "straight"
    process = start(config, straight)
    wait_for_step(1, straight, process)
    begin = time.monotonic()
    process.join()
    step_seconds = (time.monotonic() - begin) / NUM_STEPS
    assert process.exitcode == 0, straight.with_suffix(".log").read_text()[-2000:]

    draw = random.Random(0)
    num_killed, seen = 0, set()
    for moment in range(NUM_MOMENTS):
        run = tmp_path / f"run-{moment}"
        process = start(config, run)
        wait_for_step(draw.randint(1, NUM_STEPS - 3), run, process)
        time.sleep(draw.uniform(0, 1) * step_seconds)
        process.kill()
        process.join()
        num_killed += process.exitcode != 0
        checkpoints = run / "checkpoints"
        seen.add((checkpoints / "latest").read_text() if (checkpoints / "latest").is_file() else "none")
        finish(config, run)
        last = f"checkpoints/step-{NUM_STEPS:08d}"
        for name in ("parameters", "averaged", "optimizer"):
            mine, wanted = (load_file(folder / last / f"{name}.safetensors") for folder in (run, straight))
            assert mine.keys() == wanted.keys()
            assert all(torch.equal(mine[key], wanted[key]) for key in mine), (moment, name)
        assert metrics(run) == metrics(straight)
        weights = "generator/generator/model.safetensors"
        assert (run / weights).read_bytes() == (straight / weights).read_bytes()
        assert not [path for path in run.rglob(".*")], "something half-written was left"
    assert num_killed >= NUM_MOMENTS - 2
    assert len(seen) >= 4, f"the kills did not come at different steps: {seen}"
