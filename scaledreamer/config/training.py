"""Settings of regularizers, of the optimizer, of a run, and of its validation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from scaledreamer.config.types import (
    KEY,
    ExpandHome,
    MayChange,
    Pair,
    Positive,
    Section,
    check_betas,
    check_optional_betas,
    check_texts,
    schedule,
)


def refuse_stage_3(value: Any) -> Any:
    if value == 3:
        raise ValueError(
            f"{KEY}: got 3; accepted are 0, 1 and 2. Stage 3 splits the parameters themselves, which "
            "generators of some 0.1 B parameters do not need; stage 2 already splits gradients and optimizer."
        )
    return value


class EikonalSettings(Section):
    """Pulls the SDF's gradient to length 1, at points in space and near the surface."""

    weight: Positive = schedule([6.0, 1.0])
    """Weight over the training."""
    num_points: Annotated[int, Field(ge=2, le=100_000)] = 512
    """Points of each prompt in a step."""
    epsilon: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Step of the finite differences."""


class SparsitySettings(Section):
    """Pulls opacity to zero: without it, volumes tend to fill the view."""

    weight: Positive = schedule(6.0)
    """Weight over the training; 0 leaves it out."""


class OpaqueSettings(Section):
    """Pulls opacity to 0 or 1."""

    weight: Positive = schedule(0.0)
    """Weight over the training; 0 leaves it out."""


class OrientationSettings(Section):
    """Penalizes visible surface that faces away from the camera; needs rendered normals, which cost time."""

    weight: Positive = schedule(0.0)
    """Weight over the training; 0 leaves it out."""


class RegularizerSettings(Section):
    """What scenes should be like whatever the prompt says."""

    eikonal: EikonalSettings = EikonalSettings()
    """Gradient of the SDF of length 1."""
    sparsity: SparsitySettings = SparsitySettings()
    """Little of the image covered."""
    opaque: OpaqueSettings = OpaqueSettings()
    """Opacity near 0 or 1."""
    orientation: OrientationSettings = OrientationSettings()
    """Visible surface faces the camera."""


class AdanSettings(Section):
    """Settings of adan."""

    betas: Annotated[list[float], Field(min_length=3, max_length=3), AfterValidator(check_betas)] = [
        0.98,
        0.92,
        0.99,
    ]
    """Decay of its averages of the gradient, of its change and of its square."""


class OptimizerSettings(Section):
    """The optimizer of the generator: torch's, or adan."""

    name: Literal["adam", "adamw", "adan", "sgd"] = "adam"
    """Optimizer."""
    lr: Positive = schedule(1e-3)
    """Learning rate of the generator."""
    background_lr: Positive = schedule(1e-3)
    """Learning rate of the background."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which both learning rates rise from 0."""
    betas: Annotated[Pair, AfterValidator(check_betas)] = [0.5, 0.99]
    """Decay of adam's and adamw's two averages."""
    background_betas: Annotated[Pair | None, AfterValidator(check_optional_betas)] = None
    """Adam's and adamw's of the background; None is the same."""
    eps: Annotated[float, Field(gt=0)] = 1e-15
    """Added to the denominator by adam, adamw and adan."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of weights (adam: as a gradient, adamw and adan: decoupled)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of sgd."""
    max_gradient_norm: Annotated[float | None, Field(gt=0)] = None
    """Clip the norm of the gradient of all parameters to it; None does not clip."""
    adan: AdanSettings = AdanSettings()
    """Settings of adan."""

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> OptimizerSettings:
        if self.momentum > 0 and self.name != "sgd":
            raise ValueError(
                f"{KEY}.momentum: belongs to sgd, and {KEY}.name is {self.name!r}, whose momentum is the "
                f"first of betas; set {KEY}.momentum=0 or {KEY}.name=sgd."
            )
        return self


class TrainingSettings(Section):
    """The run."""

    output: Annotated[str, Field(min_length=1), ExpandHome, MayChange()] = "outputs/run"
    """Folder of the run; running again resumes it."""
    max_steps: Annotated[int, Field(ge=1), MayChange()] = 2000
    """Optimizer steps; schedules stretch with it."""
    minutes: Annotated[float | None, Field(gt=0), MayChange()] = None
    """Stop cleanly after so many minutes; schedules do not change."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 4
    """Prompts of a step over all ranks and accumulation steps."""
    accumulation_steps: Annotated[int, Field(ge=1), MayChange()] = 1
    """Gradient accumulation steps of each rank."""
    zero_stage: Annotated[Literal[0, 1, 2], BeforeValidator(refuse_stage_3), MayChange()] = 0
    """DeepSpeed's ZeRO stage: 1 splits the optimizer among ranks, 2 gradients as well."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Decay of the moving average of the weights, which is exported."""
    device: Annotated[Literal["auto", "cpu", "cuda"], MayChange()] = "auto"
    """Where to train."""
    deterministic: Annotated[bool, MayChange()] = False
    """Use deterministic operations only, which are slower; a CPU is always deterministic."""
    text_cache: Annotated[int, Field(ge=0), MayChange()] = 2048
    """Texts cached for each encoder, if all prompts with all view words fit."""
    log_every: Annotated[int, Field(ge=1), MayChange()] = 10
    """Steps between lines of metrics."""
    sample_every: Annotated[int, Field(ge=1), MayChange()] = 200
    """Steps between image grids."""
    sample_prompts: Annotated[list[str] | None, AfterValidator(check_texts), MayChange()] = None
    """Prompts of the image grids; None is eight of the corpus."""
    tensorboard: Annotated[bool, MayChange()] = True
    """Write TensorBoard files too."""
    record_prompts: Annotated[bool, MayChange()] = False
    """Record which prompts each rank sees in every step: shown/rank-<n>.jsonl."""
    checkpoint_every: Annotated[int, Field(ge=1), MayChange()] = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1), MayChange()] = 2
    """Number of the newest checkpoints to keep."""
    max_skipped_steps: Annotated[int, Field(ge=1), MayChange()] = 10
    """Non-finite steps in a row that end the run."""


class EvaluationSettings(Section):
    """Validation while training; the best generator by it is exported."""

    every: Annotated[int | None, Field(ge=1)] = None
    """Steps between validations; None validates never."""
    metric: str = "score"
    """The score that selects the best generator; higher is better."""
    num_prompts: Annotated[int, Field(ge=1)] = 64
    """Validation prompts."""
