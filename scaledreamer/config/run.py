"""All settings of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scaledreamer.config.data import ConditionerSettings, PromptSettings
from scaledreamer.config.generators import GeneratorSettings
from scaledreamer.config.priors import DistillationSettings, PriorSettings, WeightSettings
from scaledreamer.config.rendering import CameraSettings, RendererSettings
from scaledreamer.config.training import (
    EvaluationSettings,
    OptimizerSettings,
    RegularizerSettings,
    TrainingSettings,
)
from scaledreamer.config.types import MayChange, Section
from scaledreamer.schedules import Linear


class Config(Section):
    """Everything that a run is made of."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random."""
    prompts: PromptSettings = PromptSettings()
    """What to train on."""
    conditioner: ConditionerSettings = ConditionerSettings()
    """Text encoder of the generator."""
    weights: WeightSettings = WeightSettings()
    """Where weights are looked for."""
    cameras: CameraSettings = CameraSettings()
    """Cameras of the training."""
    generator: GeneratorSettings = GeneratorSettings()
    """The network that is trained."""
    renderer: RendererSettings = RendererSettings()
    """Volume rendering."""
    priors: Annotated[list[PriorSettings], Field(min_length=1)] = [PriorSettings()]
    """Frozen priors."""
    distillation: DistillationSettings = DistillationSettings()
    """Score distillation."""
    regularizers: RegularizerSettings = RegularizerSettings()
    """Regularizers."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer."""
    training: TrainingSettings = TrainingSettings()
    """The run."""
    evaluation: Annotated[EvaluationSettings, MayChange()] = EvaluationSettings()
    """Validation while training."""

    @model_validator(mode="after")
    def _cameras_see_the_centre(self) -> Config:
        near, far = self.renderer.volume.near, self.renderer.volume.far
        first, last = self.cameras.distance
        for key, value, is_wrong, camera, accepted in (
            ("near", near, near >= first, f"the nearest camera stands {first:g}", "less"),
            ("far", far, far <= last, f"the farthest camera stands {last:g}", "more"),
        ):
            if is_wrong:
                raise ValueError(
                    f"renderer.volume.{key}: got {value:g}, and {camera} from the origin "
                    f"(cameras.distance), at which it looks; accepted is {accepted} than that."
                )
        return self

    @model_validator(mode="after")
    def _timesteps_in_order(self) -> Config:
        settings, last = self.distillation, self.training.max_steps
        low, high = settings.t_min.over(last), settings.t_max.over(last)
        places = [(line.first_step, line.last_step) for line in (low, high) if isinstance(line, Linear)]
        corners = {0, last, *(step for pair in places for step in pair)}
        # Between its corners each is a straight line; where one jumps, the step before is a corner too.
        for step in sorted(corners | {step - 1 for step in corners if step > 0}):
            if low.value_at(step) > high.value_at(step):
                raise ValueError(
                    f"distillation.t_min: {low.value_at(step):g} at step {step} is above distillation.t_max, "
                    f"{high.value_at(step):g}; lower it or raise t_max there."
                )
        return self
