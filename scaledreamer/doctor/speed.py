"""Estimates the duration of a run: from a few real steps if possible, otherwise from counted operations."""

from __future__ import annotations

import time
from typing import Any

from scaledreamer.config import Config, parse_config
from scaledreamer.doctor.child import ChildError, peak_bytes, run_code
from scaledreamer.doctor.findings import Section, one_line, size
from scaledreamer.doctor.memory import Estimate, rank_prompts

EFFICIENCY = 0.4
"""Share of the rate of large matrix products that a whole step is assumed to reach."""
SECONDS = 8.0
"""After this time no further step of the calibration begins."""
TIMEOUT = 600.0


def measure_steps(data: dict[str, Any]) -> dict[str, Any]:
    """Seconds of real training steps of one process, in which nothing is saved, and its memory at the most.

    Args:
        data: a configuration.
    """
    import torch

    from scaledreamer.assemble import make_trainer
    from scaledreamer.launch.process import start_process

    config = parse_config(data)
    process = start_process(config.training.device)
    trainer = make_trainer(config, process)
    is_cuda = process.device.type == "cuda"
    trainer.step(0)
    trainer.step(1)
    if is_cuda:
        torch.cuda.synchronize()
    start, steps = time.perf_counter(), 0
    while steps < 10 and (steps == 0 or time.perf_counter() - start < SECONDS):
        trainer.step(steps + 2)
        steps += 1
        if is_cuda:
            torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / steps
    return {
        "seconds_per_step": seconds,
        "steps": steps,
        "main_bytes": peak_bytes(),
        "device_bytes": torch.cuda.max_memory_reserved() if is_cuda else 0,
    }


def measure_rate(arguments: tuple[str, str]) -> float:
    """Floating-point operations a second of large products on a device ("cpu" or "cuda") in a dtype."""
    import torch

    device, dtype = arguments
    edge = 4096 if device == "cuda" else 1024
    a = torch.randn(edge, edge, device=device).to(getattr(torch, dtype))

    def seconds(times: int) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(2)
    return 4 * 2 * edge**3 / seconds(4)


def calibration_config(config: Config, ranks: int) -> Config:
    """One rank's part of the steps, with prompts that touch no disk, and nothing compiled."""
    data = config.model_dump()
    data["training"]["batch_size"] = rank_prompts(config, ranks) * config.training.accumulation_steps
    if config.prompts.shards is not None:
        data["prompts"] = type(config.prompts)(name="core_15").model_dump()
        data["training"]["text_cache"] = 0
    data["prompts"]["shard_size"] = None
    data["weights"]["offline"] = True
    for prior in data["priors"]:
        prior[prior["name"]] |= {"compile": False, "cuda_graphs": False}
    return parse_config(data)


def report(config: Config, found: Estimate, *, ranks: int, can_run: bool, is_cuda: bool) -> Section:
    """Floating-point work of a step, prompts a second and hours of the run.

    Args:
        can_run: weights are here and fit.
    """
    section = Section("Speed")
    section.add("ok", f"a step of one rank takes {found.flops / 1e12:.3g} TFLOP in products, counted")
    section.numbers["flops_per_step"] = found.flops
    seconds = None
    if can_run:
        try:
            answer = "from scaledreamer.doctor.speed import measure_steps; answer(measure_steps(argument))"
            measured = run_code(answer, calibration_config(config, ranks).model_dump(), timeout=TIMEOUT)
        except (ChildError, ValueError) as error:
            section.add("error", f"a few real steps failed: {one_line(error)}", "see the lines above")
            return section
        seconds = measured["seconds_per_step"]
        most = f"{size(measured['main_bytes'])} of main memory"
        if is_cuda:
            most += f", {size(measured['device_bytes'])} of the GPU"
        what = f"{measured['steps']} real steps of one rank: {seconds:.2f} s each; at most {most}"
        section.numbers["measured"] = measured
    else:
        dtype = config.priors[0].networks.dtype
        device = "cuda" if is_cuda else "cpu"
        try:
            answer = "from scaledreamer.doctor.speed import measure_rate; answer(measure_rate(argument))"
            rate = run_code(answer, (device, dtype), timeout=TIMEOUT)
        except ChildError as error:
            section.add("warning", f"the rate of products could not be measured: {one_line(error)}")
            return section
        seconds = found.flops / (EFFICIENCY * rate)
        what = (
            f"an estimate: {rate / 1e12:.3g} TFLOP/s measured in {dtype} products, of which a step is taken "
            f"to reach {EFFICIENCY:.0%}: {seconds:,.2f} s a step"
        )
    section.add("ok", what)
    training = config.training
    hours, rate = seconds * training.max_steps / 3600, training.batch_size / seconds
    shared = ", if ranks do not slow each other down" if ranks > 1 else ""
    section.add("ok", f"{rate:.3g} prompts/s, {hours:,.1f} hours for {training.max_steps:,} steps{shared}")
    section.numbers |= {"seconds_per_step": seconds, "prompts_per_second": rate, "hours": hours}
    if training.minutes is not None and hours * 60 > training.minutes:
        section.add("warning", f"training.minutes={training.minutes:g} ends the run before its last step")
    return section
