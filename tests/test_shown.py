"""What launched ranks are shown of a corpus in shards: killed, resumed, and resumed with one rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scaledreamer.cli.train import main
from scaledreamer.prompts.order import EpochOrder
from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts
from tests.support.random_models import write_random_prior
from tests.support.runs import environment, free_port, write_config

ROOT = Path(__file__).parent.parent
NUM_PROMPTS, SHARD_SIZE, BATCH_SIZE, NUM_STEPS = 120, 25, 4, 40


def shown(run: Path) -> dict[int, list[str]]:
    """Prompts of each step's global batch, in order; a sample that was drawn twice fails."""
    found: dict[int, dict[int, str]] = {}
    for path in (run / "shown").glob("rank-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            step = found.setdefault(line["step"], {})
            assert not step.keys() & set(line["indices"]), (path, line)
            step |= dict(zip(line["indices"], line["prompts"], strict=True))
    assert all(sorted(step) == list(range(BATCH_SIZE)) for step in found.values())
    return {step: [found[step][index] for index in range(BATCH_SIZE)] for step in sorted(found)}


@pytest.mark.slow
def test_ranks_share_an_epoch_of_shards_through_kills_and_changes_of_their_number(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(f"prompt number {i}" for i in range(NUM_PROMPTS)))
    run = tmp_path / "run"
    config = write_config(
        tmp_path,
        write_random_prior(tmp_path / "prior"),
        prompts__file=str(tmp_path / "corpus.txt"),
        prompts__shard_size=SHARD_SIZE,
        prompts__cache=str(tmp_path / "cache"),
        training__output=str(run),
        training__batch_size=BATCH_SIZE,
        training__max_steps=NUM_STEPS,
        training__checkpoint_every=5,
        training__record_prompts=True,
    )
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--master_port"]
    command = [*launcher, str(free_port()), "train.py", "--config", str(config)]
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        while not (run / "checkpoints" / "step-00000005").exists() and killed.poll() is None:
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        command = [*launcher, str(free_port()), "train.py", "--config", str(config)]
        again = subprocess.run(
            [*command, "training.max_steps=20"], cwd=ROOT, env=environment(), stdout=log, stderr=log
        )
    assert again.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    assert main(["--config", str(config)]) == 0

    found = shown(run)
    assert list(found) == list(range(NUM_STEPS))
    (folder,) = (path for path in (tmp_path / "cache" / "shards").iterdir() if path.is_dir())
    source, order = ShardedPrompts(LocalFiles(folder)), EpochOrder(NUM_PROMPTS, SHARD_SIZE, seed=0)
    expected = [""] * (NUM_STEPS * BATCH_SIZE)
    for place in order.locate(np.arange(len(expected))):
        for sample, prompt in zip(
            place.samples, source.read(place.shard, place.rows.tolist()).prompts, strict=True
        ):
            expected[sample] = prompt
    assert sum(found.values(), []) == expected
    assert len(set(expected[:NUM_PROMPTS])) == NUM_PROMPTS  # an epoch: each prompt once
