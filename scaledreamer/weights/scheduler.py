"""What a network predicts, from its scheduler's settings and the marks in a checkpoint. Needs no torch.

A single-file checkpoint has no scheduler. Some are marked instead, by special tensors or in their metadata;
programs for such files rely on these marks (ComfyUI:comfy/supported_models.py, class SDXL).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from scaledreamer.weights.layout import PlaceError

CONFIG = "scheduler/scheduler_config.json"
EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")
METADATA = "modelspec.prediction_type"
"""Key of Stability AI's ModelSpec."""
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
READ = "only networks of alpha_bar's discrete steps are read"


@dataclass(frozen=True)
class Marks:
    """Marks in a single-file checkpoint.

    Attributes:
        edm: names of the marks for EDM noise levels.
        predictions: prediction types by mark.
        has_zero_snr: whether its last step is pure noise.
    """

    edm: tuple[str, ...] = ()
    predictions: tuple[tuple[str, str], ...] = ()
    has_zero_snr: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether a plain epsilon-predicting scheduler would be consistent with the marks."""
        return not self.has_zero_snr and not self.predicts_v

    @property
    def predicts_v(self) -> bool:
        """Whether a mark says that the network predicts v."""
        return any(kind == "v_prediction" for _, kind in self.predictions)


def read_marks(tensors: Collection[str], metadata: Mapping[str, Any]) -> Marks:
    """Reads the marks from the names of a file's tensors and its metadata."""
    predictions = [("v_pred", "v_prediction")] if "v_pred" in tensors else []
    said = PREDICTIONS.get(str(metadata.get(METADATA)).lower())
    if said is not None:
        predictions.append((METADATA, said))
    edm = tuple(name for name in EDM_MARKS if name in tensors)
    return Marks(edm, tuple(predictions), "ztsnr" in tensors)


def scheduler_problem(config: Mapping[str, Any]) -> str | None:
    """Why networks with this scheduler are not supported; None if they are."""
    name = str(config.get("_class_name"))
    if name.startswith(("EDM", "FlowMatch")):
        return f"scheduler/ is {name}; {READ}"
    return None


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Raises PlaceError for a scheduler whose networks are not supported."""
    problem = scheduler_problem(config)
    if problem is not None:
        raise PlaceError(*problem.split("; "))
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS.values():
        accepted = "accepted are 'epsilon' and 'v_prediction'"
        raise PlaceError(f"the scheduler's prediction_type is {predicted!r}", accepted)


def check_edm(marks: Marks) -> None:
    """Raises PlaceError for a checkpoint with EDM marks."""
    if marks.edm:
        raise PlaceError(f"is marked as a network of EDM's noise levels ({', '.join(marks.edm)})", READ)


def check_marks(marks: Marks, config: Mapping[str, Any], place: object) -> None:
    """Raises PlaceError if a checkpoint's marks contradict the scheduler settings beside it.

    Args:
        place: location of the settings, for the message.
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
