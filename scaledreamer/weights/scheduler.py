"""What a network predicts, by its scheduler's settings and by the marks of a checkpoint. Needs no torch.

A checkpoint in one file has no scheduler. Some are marked instead, by tensors that hold nothing else or in
their metadata; programs for such files go by the marks (ComfyUI:comfy/supported_models.py, class SDXL).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from scaledreamer.weights.layout import PlaceError

CONFIG = "scheduler/scheduler_config.json"
EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")
METADATA = "modelspec.prediction_type"
"""Of Stability AI's ModelSpec."""
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
READ = "only networks of alpha_bar's discrete steps are read"


@dataclass(frozen=True)
class Marks:
    """What a checkpoint in one file says of its networks.

    Attributes:
        edm: names of the marks of EDM's noise levels.
        predictions: prediction types by the mark that says so.
        has_zero_snr: its last step is noise alone.
    """

    edm: tuple[str, ...] = ()
    predictions: tuple[tuple[str, str], ...] = ()
    has_zero_snr: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether a scheduler that predicts epsilon on usual steps could be right."""
        return not self.has_zero_snr and not self.predicts_v

    @property
    def predicts_v(self) -> bool:
        """Whether a mark says that they predict v."""
        return any(kind == "v_prediction" for _, kind in self.predictions)


def read_marks(tensors: Collection[str], metadata: Mapping[str, Any]) -> Marks:
    """The marks among the names of a file's tensors, and in its metadata."""
    predictions = [("v_pred", "v_prediction")] if "v_pred" in tensors else []
    said = PREDICTIONS.get(str(metadata.get(METADATA)).lower())
    if said is not None:
        predictions.append((METADATA, said))
    edm = tuple(name for name in EDM_MARKS if name in tensors)
    return Marks(edm, tuple(predictions), "ztsnr" in tensors)


def scheduler_problem(config: Mapping[str, Any]) -> str | None:
    """Why networks of a scheduler are not read; None if they are."""
    name = str(config.get("_class_name"))
    if name.startswith(("EDM", "FlowMatch")):
        return f"scheduler/ is {name}; {READ}"
    return None


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Raises PlaceError for the settings of a scheduler whose networks are not read."""
    problem = scheduler_problem(config)
    if problem is not None:
        raise PlaceError(*problem.split("; "))
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS.values():
        accepted = "accepted are 'epsilon' and 'v_prediction'"
        raise PlaceError(f"the scheduler's prediction_type is {predicted!r}", accepted)


def check_edm(marks: Marks) -> None:
    """Raises PlaceError for a checkpoint with the marks of EDM."""
    if marks.edm:
        raise PlaceError(f"is marked as a network of EDM's noise levels ({', '.join(marks.edm)})", READ)


def check_marks(marks: Marks, config: Mapping[str, Any], place: object) -> None:
    """Raises PlaceError where a checkpoint's marks contradict the settings of the scheduler beside it.

    Args:
        place: where the settings are, for the message.
    """
    own = "give the settings of the checkpoint's own scheduler"
    predicted = config.get("prediction_type", "epsilon")
    for mark, kind in marks.predictions:
        if kind != predicted:
            reason = f"its mark {mark} says {kind}, and {CONFIG} in {place} prediction_type {predicted!r}"
            raise PlaceError(reason, f"{own} there")
    if marks.has_zero_snr and not config.get("rescale_betas_zero_snr", False):
        reason = f"its mark ztsnr says that the last step is noise alone, and {CONFIG} in {place} has no "
        raise PlaceError(f"{reason}rescale_betas_zero_snr", f"{own} there")
