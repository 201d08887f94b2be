"""Gradients of score distillation at the clean latents, from a prior's noise predictions.

Letters: as in `guidance`; `w(t)` is the weight, one per sample, see `timesteps.weight_of`.

Every method is `w(t) (first branch - second branch)`; only the second branch differs:

    sds   the noise that was added                               -> guided - eps
    csd   the prediction without prompt, first branch unguided   -> eps_text - eps_uncond
    vsd   a prior fine-tuned on the renders                      -> guided - eps_finetuned
    asd   the same frozen prior a little later, with prompt      -> guided - eps(x_{t+dt}; t + dt, text)

So asd with `dt = 0` is `(s - 1)` csd, and guided minus `eps_uncond` is `s` csd. Latents are
`(batch, c, h, w)`. Results are unreduced: not divided by the batch, not clipped, not averaged over elements.
"""

from jaxtyping import Float
from torch import Tensor

from scaledreamer.distillation.guidance import check_same_shape


def asd_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    eps_shifted: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of asynchronous score distillation (ScaleDreamer, Algorithm 1).

    Args:
        eps_guided: prediction at t after guidance (`guided_noise` or `perp_neg`).
        eps_shifted: prediction at t + dt with the prompt, unguided, of latents noised with the same noise.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    check_same_shape("eps_guided", eps_guided, "eps_shifted", eps_shifted)
    return _weighted(eps_guided - eps_shifted, weight)


def sds_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of score distillation sampling (DreamFusion, Eq. 3).

    Args:
        eps_guided: prediction at t after guidance.
        noise: the noise that was added to the latents.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    check_same_shape("eps_guided", eps_guided, "noise", noise)
    return _weighted(eps_guided - noise, weight)


def csd_gradient(
    eps_text: Float[Tensor, "batch c h w"],
    eps_uncond: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of classifier score distillation, the guidance direction alone (arXiv 2310.19415).

    Args:
        eps_text: prediction at t with the prompt.
        eps_uncond: prediction at t with the empty prompt.
        weight: w(t), one per sample; a guidance scale would only multiply it.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
    return _weighted(eps_text - eps_uncond, weight)


def vsd_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    eps_finetuned: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of variational score distillation (ProlificDreamer, Algorithm 1, line 5).

    Args:
        eps_guided: prediction at t after guidance.
        eps_finetuned: prediction at t, with the prompt, of the prior fine-tuned on the generator's renders.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    check_same_shape("eps_guided", eps_guided, "eps_finetuned", eps_finetuned)
    return _weighted(eps_guided - eps_finetuned, weight)


def _weighted(difference: Tensor, weight: Tensor) -> Tensor:
    if weight.shape != difference.shape[:1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected one per sample: {tuple(difference.shape[:1])}"
        )
    return weight[:, None, None, None] * difference
