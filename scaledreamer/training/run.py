"""The run around the step: start, resume, metrics, images, validation, checkpoints, stopping, export.

A run's folder contains `config.yaml`, `metrics.jsonl`, `tensorboard/`, `samples/`, `checkpoints/`,
`generator/` (the averaged weights of the last step) and, with validation, `best/` (those with the best
score).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scaledreamer import rendering
from scaledreamer.assemble import make_trainer
from scaledreamer.config import Config, differing_keys, dump_config, flatten, renamed_keys
from scaledreamer.contracts import Scene
from scaledreamer.evaluation.validation import make_validation
from scaledreamer.exported import find_generator
from scaledreamer.files import replace_text
from scaledreamer.launch.engine import Update
from scaledreamer.launch.process import Process, start_process
from scaledreamer.os_errors import one_line
from scaledreamer.pipeline import TextTo3D, draw_noise
from scaledreamer.tinyworld import grammar
from scaledreamer.trained_on import TrainedOn, World
from scaledreamer.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from scaledreamer.training.description import text_conditioner, unknown_words
from scaledreamer.training.lock import RunLock
from scaledreamer.training.metrics import PromptRecord, Report
from scaledreamer.training.output import check_output, claim_output
from scaledreamer.training.samples import sample_turntables
from scaledreamer.training.signals import StopSignals
from scaledreamer.training.step import Trainer
from scaledreamer.weights.places import hub_access

SceneOf = Callable[[Sequence[str]], Scene]
Evaluate = Callable[[SceneOf, int], Mapping[str, float]]
"""Validation: given the averaged generator (prompts to a scene, without gradients) and the number of finished
steps, returns scores by name. Called on the main process only."""

SHOWN = ("gradient/norm", "prior0/clipped_fraction", "prior0/timestep", "render/opacity", "loss/eikonal")


class RunError(Exception):
    """The run cannot go on; the message is for the user."""


@dataclass
class Run:
    """A run that is ready to train, created by `prepare`."""

    config: Config
    process: Process
    trainer: Trainer
    evaluate: Evaluate | None = None
    first_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    num_skipped: int = 0
    num_skipped_in_row: int = 0
    lock: RunLock | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.config.training.output)
        # The corpus as it is, so that a run does not silently continue with other prompts.
        self.record: dict[str, Any] = self.config.model_dump()
        self.record["prompts"]["sha256"] = self.trainer.batches.stream.source.fingerprint
        start = self.config.generator.start  # read now: it may be gone when there is something to export
        self._start: TrainedOn | None = None
        if start is not None:
            self._start = TrainedOn.read(find_generator(start, hub_access(self.config.weights)))

    @cached_property
    def trained_on(self) -> TrainedOn:
        """The prompts of this training, and of the one that its initial weights come from."""
        prompts, source = self.config.prompts, self.trainer.batches.stream.source
        file = prompts.shards or prompts.file
        corpus = "one prompt" if prompts.text else prompts.name if file is None else Path(file).name
        world = None
        if prompts.is_tinyworld:
            world = World(tuple(dict.fromkeys(prompts.kinds or grammar.KINDS)), prompts.max_extras)
        here = TrainedOn(corpus, source.num_prompts, source.words(), world)
        return here if self.config.generator.start is None else here.after(self._start)

    def resume(self) -> list[str]:
        """Resumes from the newest intact checkpoint, if there is one; returns notes for the user.

        Raises: ValueError if the configuration differs from the checkpoint's, or no checkpoint can be read.
        """
        checkpoint, problems = load_newest(self.folder / "checkpoints")
        notes = [f"passed over: {problem}" for problem in problems]
        if checkpoint is None:
            return notes
        renamed = renamed_keys(checkpoint.config)
        if renamed:
            raise ValueError(
                f"{self.folder} was trained by an earlier version, whose settings cannot be compared: "
                f"{'; '.join(renamed)}. Choose another training.output; generator.start={self.folder} begins "
                "with its weights."
            )
        differing = differing_keys(checkpoint.config, self.record)
        if differing:
            raise ValueError(
                f"{self.folder} was trained with other settings: {'; '.join(differing)}. Set them back to go "
                "on, or choose another training.output."
            )
        try:
            self.trainer.engine.load_parameters(checkpoint.parameters)
            self.trainer.engine.load_optimizer_state(checkpoint.optimizer)
            self.trainer.averaged.module.load_state_dict(checkpoint.averaged)
            for number, judge in enumerate(self.trainer.judges):
                judge.method.load_state_dict(checkpoint.method(number))
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.folder}: the checkpoint of step {checkpoint.step} does not fit the generator of this "
                f"configuration ({reason}); the conditioner or the program has changed. Choose another "
                "training.output."
            ) from None
        self.first_step, self.best = checkpoint.step, dict(checkpoint.best)
        return [*notes, f"going on from step {checkpoint.step}"]

    def train(self) -> None:
        """Trains to the last step, or until a signal or the time limit, and exports.

        Raises: RunError if it cannot continue.
        """
        with contextlib.ExitStack() as stack:
            if self.lock is not None:
                stack.callback(self.lock.release)
            self._train(stack.enter_context(StopSignals()))

    def _train(self, signals: StopSignals) -> None:
        settings, is_main = self.config.training, self.process.is_main
        step, start = self.first_step, time.monotonic()
        if is_main:
            replace_text(self.folder / "config.yaml", dump_config(self.config))
        report = Report(
            self.folder,
            is_silent=not is_main,
            first_step=step,
            max_steps=settings.max_steps,
            use_tensorboard=settings.tensorboard,
        )
        if settings.record_prompts:
            record = PromptRecord(self.folder / "shown", self.process, step)
            self.trainer.on_draw = lambda step, batch: record(step, batch.indices, batch.prompts)
        with report:
            report.texts({"config": f"```\n{dump_config(self.config)}\n```", "prompts": self._prompt_list()})
            report.hyper_parameters(flatten(self.config.model_dump()), SHOWN)
            last_tick = (time.monotonic(), step)
            while step < settings.max_steps:
                is_late = settings.minutes is not None and time.monotonic() - start > 60 * settings.minutes
                update = self.trainer.step(step, wants_stop=is_late or signals.name is not None)
                step += 1
                self._count_skipped(step, update, report)

                is_end = step == settings.max_steps or update.wants_stop
                is_checkpoint = is_end or (step % settings.checkpoint_every == 0 and update.is_applied)
                every = self.config.evaluation.every
                if is_checkpoint or step % settings.log_every == 0:
                    self._tick(step, update, last_tick, report)
                    last_tick = (time.monotonic(), step)
                if is_main and (is_end or step % settings.sample_every == 0):
                    report.grid(step, *self._samples())
                if every is not None and (step % every == 0 or step == settings.max_steps):
                    self._validate(step, report)
                if is_checkpoint:
                    self._save(step)
                if update.wants_stop:
                    break
        if is_main:
            self._export(self.folder / "generator", step)
            self._say_end(step, signals.name)
        self.process.barrier()

    def _count_skipped(self, step: int, update: Update, report: Report) -> None:
        """Reports a skipped step on all ranks together; ends the run after too many in a row."""
        if update.is_applied:
            self.num_skipped_in_row = 0
            return
        self.num_skipped += 1
        self.num_skipped_in_row += 1
        problems = list(dict.fromkeys(self.trainer.problems))
        if self.process.world_size > 1:
            gathered: list[Any] = [None] * self.process.world_size
            dist.all_gather_object(gathered, problems)
            problems = list(dict.fromkeys(problem for part in gathered for problem in part))
        listed = "; ".join(problems[:4]) + ("; ..." if len(problems) > 4 else "")
        report.say(f"step {step - 1} skipped, not finite: {listed}")
        if self.num_skipped_in_row == self.config.training.max_skipped_steps:
            first = step - self.num_skipped_in_row
            if first > self.first_step and first % self.config.training.checkpoint_every:
                self._save(first)  # parameters have not changed since
            if first and self.process.is_main:
                self._export(self.folder / "generator", first)
            kept = (
                f"the state before them is kept; another training.output with generator.start={self.folder} "
                "goes on from it with other settings"
                if first
                else "nothing was trained before them; run again with other settings"
            )
            raise RunError(
                f"{self.num_skipped_in_row} steps in a row were not finite, since step {first}; stopped; "
                f"{kept}. Lower optimizer.lr, set optimizer.max_gradient_norm, or look at what was not "
                "finite above."
            )

    # --- ticks ----------------------------------------------------------------------------------------------

    def _tick(self, step: int, update: Update, last_tick: tuple[float, int], report: Report) -> None:
        """Collects and writes the metrics since the last tick; all ranks together."""
        trainer, index = self.trainer, step - 1
        times, last = self.config.distillation, self.config.training.max_steps
        averages = trainer.averages.collect(self.process)
        last_time, last_step = last_tick
        num_steps = step - last_step
        values = averages | {
            "gradient/norm": update.gradient_norm,
            "gradient/norm_clipped": update.clipped_norm,
            "gradient/skipped_steps": self.num_skipped,
            **{f"lr/{name}": rate for name, rate in trainer.learning_rates.at(index).items()},
            **{f"weight/{name}": weight for name, weight in trainer.regularizers.factors_at(index).items()},
            "schedule/t_min": times.t_min.over(last).value_at(index),
            "schedule/t_max": times.t_max.over(last).value_at(index),
            "seconds/step": (time.monotonic() - last_time) / num_steps,
            **{f"seconds/{part}": seconds / num_steps for part, seconds in trainer.timer.collect().items()},
        }
        report.write(step, values)
        report.progress(step, values, SHOWN)

    def scene_of(self, prompts: Sequence[str]) -> Scene:
        """Scenes of the averaged generator, without gradients, with the noise of seed 0."""
        generator = self.trainer.averaged.module
        with torch.no_grad():
            return generator(self.trainer.encode(prompts), draw_noise(generator, 0, len(prompts)))

    def _samples(self) -> tuple[torch.Tensor, Sequence[str]]:
        """Turntables of a few prompts, "row view 3 h w", and the prompts."""
        prompts = self.config.training.sample_prompts or self.trainer.batches.stream.source.examples(8)
        renderer = rendering.configured(self.config.renderer).for_display()
        size = self.trainer.judges[0].prior.image_size
        cameras = self.trainer.batches.cameras
        scenes = (self.scene_of([prompt]) for prompt in prompts)
        return sample_turntables(renderer, scenes, cameras, size, self.process.device), prompts

    def _validate(self, step: int, report: Report) -> None:
        """Scores the averaged generator and exports it if it is the best so far."""
        if self.evaluate is not None and self.process.is_main:
            scores = self.evaluate(self.scene_of, step)
            report.write(step, {f"validation/{name}": value for name, value in scores.items()})
            metric = self.config.evaluation.metric
            if metric not in scores:
                accepted = ", ".join(map(repr, scores))
                raise RunError(f"evaluation.metric: got {metric!r}; accepted are {accepted}.")
            is_best = scores[metric] > self.best.get("score", float("-inf"))
            if is_best:
                self.best = {"score": float(scores[metric]), "step": step}
                self._export(self.folder / "best", step)
            report.say(f"validation at step {step}: {metric} {scores[metric]:.4f}{' (best)' * is_best}")
        self.process.barrier()

    # --- files ----------------------------------------------------------------------------------------------

    def _save(self, step: int) -> Path:
        """Writes a checkpoint; all ranks together."""
        engine = self.trainer.engine
        optimizer = engine.optimizer_state()
        methods = [judge.method.state_dict() for judge in self.trainer.judges]
        folder = self.folder / "checkpoints"
        path = folder
        if self.process.is_main:
            checkpoint = Checkpoint(
                step=step,
                parameters=engine.trained.state_dict(),
                averaged=self.trainer.averaged.module.state_dict(),
                optimizer=optimizer,
                config=self.record,
                best=self.best,
                methods=methods,
            )
            try:
                path = save_checkpoint(folder, checkpoint, keep=self.config.training.keep_checkpoints)
            except ValueError as error:
                raise RunError(str(error)) from None
        self.process.barrier()
        return path

    def _export(self, folder: Path, step: int) -> None:
        pipe = TextTo3D(
            text_conditioner(self.trainer),
            self.trainer.averaged.module,
            generator_name=self.config.generator.name,
            cameras=self.config.cameras.model_dump(),
            renderer=rendering.index_section(self.config.renderer),
            step=step,
            trained_on=self.trained_on,
        )
        try:
            pipe.save_pretrained(folder)
        except ValueError as error:
            raise RunError(f"{error}, and run the same command again.") from None

    def _prompt_list(self) -> str:
        source = self.trainer.batches.stream.source
        listed = "\n".join(f"- {prompt}" for prompt in source.examples(100))
        return f"{source.num_prompts} prompts, among them:\n\n{listed}"

    def _say_end(self, step: int, signal_name: str | None) -> None:
        last = self.config.training.max_steps
        generator = f"generator: {self.folder / ('best' if self.best else 'generator')}"
        if step >= last:
            print(f"finished {last} steps; {generator}", flush=True)
        else:
            why = f"on {signal_name}" if signal_name else "at the time limit"
            print(
                f"stopped {why} after step {step} of {last}, saved; the same command goes on. {generator}",
                flush=True,
            )


def prepare(config: Config, evaluate: Evaluate | None = None, *, is_dry_run: bool = False) -> Run:
    """Builds a run and resumes it from its folder.

    Args:
        evaluate: the validation; None is that of the tinyworld, if `evaluation.every` is set.
        is_dry_run: change nothing on the disk.
    Raises: ValueError for anything that the user can fix.
    """
    if config.training.deterministic:
        torch.use_deterministic_algorithms(True)
    check_output(Path(config.training.output))
    process = start_process(config.training.device)
    lock = None if is_dry_run else _claim(process, Path(config.training.output))
    try:
        if config.evaluation.every is not None and evaluate is None:
            evaluate = make_validation(config, process.device)
        run = Run(config, process, make_trainer(config, process), evaluate, lock=lock)
        notes = run.resume()
    except BaseException:
        if lock is not None:
            lock.abandon()
        raise
    if process.is_main:
        if not is_dry_run:  # which reports it in its description
            notes += unknown_words(run.trainer)
        for note in notes:
            print(note, flush=True)
    return run


def _claim(process: Process, folder: Path) -> RunLock | None:
    """The lock of the run's folder, on the main process.

    Raises: ValueError, on all processes, if another run has it or the folder cannot be made.
    """
    lock, problem = None, ""
    if process.is_main:
        try:
            lock = claim_output(folder)
        except (ValueError, OSError) as error:
            problem = one_line(error)
    problem = process.share(problem)
    if problem:
        raise ValueError(problem)
    return lock
