"""Each part's share of a training step: `python -m tools.benchmark step`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaledreamer.config import Config


class TimedPrior:
    """A prior whose calls are timed as parts of the step; everything else is passed on."""

    def __init__(self, prior: Any, timer: Any) -> None:
        self._prior, self._timer = prior, timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        with self._timer.part("prior: encode image"):
            return self._prior.encode_image(*args, **kwargs)

    def predict_noise(self, *args: Any, **kwargs: Any) -> Any:
        with self._timer.part("prior: predict noise"):
            return self._prior.predict_noise(*args, **kwargs)


def measure_step(config: Config, num_steps: int, num_warmup: int) -> dict[str, Any]:
    """Mean seconds of a training step and of its parts, on one process; nothing is saved.

    Returns: `seconds_per_step`, `seconds` and `share` by part (no part lies within another), and what was
        measured.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from scaledreamer.assemble import make_trainer
    from scaledreamer.launch.process import start_process

    transformers_logging.disable_progress_bar()
    process = start_process(config.training.device)
    trainer = make_trainer(config, process)
    timer = trainer.timer

    trainer.judges = [replace(judge, prior=TimedPrior(judge.prior, timer)) for judge in trainer.judges]
    for step in range(num_warmup):
        trainer.step(step)
    timer.collect()
    if process.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(num_warmup, num_warmup + num_steps):
        trainer.step(step)
    parts = {name: seconds / num_steps for name, seconds in timer.collect().items()}
    whole = (time.perf_counter() - start) / num_steps
    inside = {name: parts.get(f"prior: {name}", 0.0) for name in ("encode image", "predict noise")}
    seconds = {
        "waiting for the stream and its texts": parts["draw"],
        "generator and renderer, forward": parts["render"],
        "prior, encode image": inside["encode image"],
        "prior, predict noise": inside["predict noise"],
        "autoencoder backward, clipping": parts["prior"] - sum(inside.values()),
        "generator and renderer, backward": parts["backward"],
        "optimizer and averaged weights": parts["update"],
    }
    seconds["everything else"] = max(whole - sum(seconds.values()), 0.0)
    images = config.training.batch_size * config.cameras.num_views
    return {
        "seconds_per_step": whole,
        "images_per_second": images / whole,
        "seconds": seconds,
        "share": {name: value / whole for name, value in seconds.items()},
        "steps": num_steps,
        "batch_size": config.training.batch_size,
        "images_per_step": images,
        "device": str(process.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def format_step(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [f"{'part':38}{'ms':>9}{'share':>9}"]
    for name, seconds in report["seconds"].items():
        lines.append(f"{name:38}{1000 * seconds:9.1f}{report['share'][name]:9.1%}")
    lines.append(f"{'step':38}{1000 * report['seconds_per_step']:9.1f}{1:9.1%}")
    lines.append(
        f"{report['images_per_step']} images a step, {report['images_per_second']:.1f} images a second; mean "
        f"of {report['steps']} steps on {report['device']}, {report['threads']} thread(s), torch "
        f"{report['torch']}"
    )
    return "\n".join(lines)
