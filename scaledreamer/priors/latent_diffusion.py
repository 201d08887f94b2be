"""Shared by all latent diffusion models in the diffusers layout: the autoencoder, and execution of networks.

Letters and axes as in `contracts.py`.
"""

from __future__ import annotations

import abc
import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.contracts import Conditions, Observation, PriorInputs, PriorText
from scaledreamer.priors.noise_schedule import NoiseSchedule, ddim
from scaledreamer.priors.running import (
    Checkpointed,
    Parts,
    check_compiler,
    checkpointed,
    parts_that_fit,
    split,
)

# --- autoencoder -------------------------------------------------------------------------------------------


def image_size(autoencoder: Any, unet: Any) -> int:
    """Size in pixels of the images whose latents a UNet was trained on."""
    return unet.config.sample_size * 2 ** (len(autoencoder.config.block_out_channels) - 1)


def encode_image(
    autoencoder: Any,
    images: Float[Tensor, "image 3 h w"],
    noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
) -> Float[Tensor, "image c h_latent w_latent"]:
    """See `Prior.encode_image`.

    Raises: ValueError if the autoencoder does not divide the images' size.
    """
    factor, (height, width) = 2 ** (len(autoencoder.config.block_out_channels) - 1), images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"images: got {height} x {width} pixels; the autoencoder takes multiples of {factor}."
        )
    signed = (images * 2 - 1).to(autoencoder.dtype)
    posterior = autoencoder.encode(signed).latent_dist
    latents = (
        posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
    )
    shift, scale = _shift_and_scale(autoencoder.config, latents.device)
    at_least_single = torch.promote_types(latents.dtype, torch.float32)
    return (latents.to(at_least_single) - shift) * scale


@torch.no_grad()
def decode_latents(
    autoencoder: Any, latents: Float[Tensor, "image c h_latent w_latent"]
) -> Float[Tensor, "image 3 h w"]:
    """Images in [0, 1] of scaled latents."""
    shift, scale = _shift_and_scale(autoencoder.config, latents.device)
    unscaled = latents / scale + shift
    return (autoencoder.decode(unscaled.to(autoencoder.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)


def _shift_and_scale(config: Any, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
    """Scaled latents are `(latents - shift) * scale`, per channel if the configuration says so."""
    if config.latents_mean is None or config.latents_std is None:
        return config.shift_factor or 0.0, config.scaling_factor
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, config.scaling_factor / std


# --- the part that priors share ----------------------------------------------------------------------------


def check_dtype(name: str, dtype: torch.dtype, device: torch.device | str, key: str) -> None:
    """Refuses a large prior in full precision on a GPU.

    Args:
        name: name of the prior in the configuration.
        key: its section there, "priors.0.sdxl".

    Raises: ValueError for float32 on a GPU, except for the small tinyworld prior.
    """
    if dtype == torch.float32 and torch.device(device).type == "cuda" and name != "tinyworld":
        raise ValueError(
            f"{key}.dtype: got 'float32' on a GPU, which takes twice the memory and several times as long "
            "for nothing; accepted there are 'bfloat16' and 'float16'."
        )


class LatentDiffusionPrior(abc.ABC):
    """Base of latent diffusion priors, which differ in how they encode text and call their UNet.

    Attributes:
        text_shape: (token, d_token) of one text.
        pooled_dim: width of the pooled embedding, if there is one.
    """

    image_size: int
    num_views: int = 1
    needs: frozenset[str] = frozenset()
    latent_shape: tuple[int, int, int]
    text_shape: tuple[int, int]
    pooled_dim: int | None = None
    _autoencoder: Any
    _unet: Any
    _schedule: NoiseSchedule
    _encoders: tuple[tuple[Any, Any], ...]
    _key: str = "prior"
    _parts: Parts = Parts()
    _is_graph: bool = False
    _overflows: Tensor | None = None  # one per network: latents, predictions

    # ---- what it is made of

    def _hold(
        self,
        autoencoder: Any,
        unet: Any,
        encoders: tuple[tuple[Any, Any], ...],
        alpha_bar: Float[Tensor, " step"],
        prediction_type: str,
    ) -> None:
        """Stores and freezes the networks, and records their shapes; `encoders` are text encoders with
        tokenizers."""
        self._schedule = NoiseSchedule(alpha_bar.to(unet.device, torch.float32), prediction_type)
        for module in (autoencoder, unet, *(encoder for encoder, _ in encoders)):
            module.eval().requires_grad_(False)
        self._autoencoder, self._unet, self._encoders = autoencoder, unet, encoders
        num_tokens = encoders[0][0].config.max_position_embeddings
        self.text_shape = (num_tokens, unet.config.cross_attention_dim)
        latent_size = unet.config.sample_size
        self.latent_shape = (unet.config.in_channels, latent_size, latent_size)
        self.image_size = image_size(autoencoder, unet)

    @property
    def device(self) -> torch.device:
        """Device of its networks."""
        return self._unet.device

    def networks(self) -> dict[str, nn.Module]:
        """Its networks by folder name, without text encoders that were freed."""
        encoders = {
            f"text_encoder_{number}" if number > 1 else "text_encoder": encoder
            for number, (encoder, _) in enumerate(self._encoders, start=1)
        }
        return {"unet": self._unet, "vae": self._autoencoder, **encoders}

    def blank_inputs(self, num_images: int) -> PriorInputs:
        """Zeros with the shape and dtype of the inputs of `predict_noise`."""
        options: Any = {"device": self.device, "dtype": self._unet.dtype}
        pooled = None if self.pooled_dim is None else torch.zeros(num_images, self.pooled_dim, **options)
        return PriorInputs(PriorText(torch.zeros(num_images, *self.text_shape, **options), pooled))

    def drop_text_encoder(self) -> None:
        """Frees text encoders and tokenizers once all texts are encoded; afterwards `encode_text` raises."""
        self._encoders = ()

    def _check_text_encoders(self, prompts: list[str]) -> None:
        if not self._encoders:
            raise ValueError(
                f"{self._key}.drop_text_encoder: the text encoder was freed, and {prompts[0]!r} was not "
                "encoded before; raise training.text_cache so that all texts fit, or leave "
                "drop_text_encoder out."
            )

    # ---- how it is run

    def run_as(
        self,
        *,
        compile: bool = False,
        cuda_graphs: bool = False,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        memory_gib: float | None = None,
        key: str = "prior",
        backend: str = "inductor",
    ) -> None:
        """Configures the execution of the networks, once, before their first call; see
        `scaledreamer.config.LatentDiffusionSettings` for the settings.

        With gradients, encoding in parts or tiles computes each of them twice, so that only one graph is in
        memory; the autoencoder is then compiled without CUDA graphs.

        Args:
            key: the prior's section in the configuration, for messages.
            backend: backend of torch.compile.

        Raises: ValueError with the setting's key if the machine does not support it, or if one image does not
            fit into memory_gib.
        """
        self._key = key
        if cuda_graphs and self.device.type != "cuda":
            raise ValueError(
                f"{key}.cuda_graphs: needs a GPU, and the networks are on {self.device}; set "
                f"{key}.cuda_graphs=false."
            )
        if compile:
            check_compiler(f"{key}.compile", self.device, backend)
        if vae_tiling:
            self._tile()
        if memory_gib is not None:
            self._parts = parts_that_fit(self.on_meta(is_tiled=vae_tiling), memory_gib, f"{key}.memory_gib")
        if vae_slicing:
            self._autoencoder.enable_slicing()  # for decoding
            self._parts = replace(self._parts, encode=1, kept=1)
        if compile:
            options: Any = {"backend": backend, "dynamic": False}
            graphs: Any = options | ({"mode": "reduce-overhead"} if cuda_graphs else {})
            is_divided = vae_tiling or self._parts.encode is not None
            encoder = self._autoencoder.encoder
            getattr(encoder, "wrapped", encoder).compile(**(options if is_divided else graphs))
            self._unet.compile(**graphs)
        self._is_graph = cuda_graphs

    def _tile(self) -> None:
        """Uses tiles of half the image size, recomputed for the gradient. The default tiles of diffusers are
        as large as the autoencoder's training images, which would be a single tile."""
        vae: Any = self._autoencoder
        vae.enable_tiling()
        vae.tile_sample_min_size = max(self.image_size // 2, 1)
        vae.tile_latent_min_size = max(self.latent_shape[-1] // 2, 1)
        vae.encoder = Checkpointed(vae.encoder)

    def on_meta(self, *, is_tiled: bool = False) -> LatentDiffusionPrior:
        """This prior without weights on the meta device, with undivided calls, to count its cost."""
        copied = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(copied, name, value.to("meta"))
        copied._schedule = replace(self._schedule, alpha_bar=self._schedule.alpha_bar.to("meta"))
        copied._autoencoder, copied._unet = (
            _meta_copy(network) for network in (self._autoencoder, self._unet)
        )
        copied._parts = Parts()
        if is_tiled:
            copied._tile()
        return copied

    # ---- the contract

    def encode_image(
        self,
        images: Float[Tensor, "image 3 h w"],
        noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """See `Prior.encode_image`; images at the prior's `image_size`.

        Raises: ValueError for images of another size.
        """
        size = self.image_size
        if images.shape[-2:] != (size, size):
            height, width = images.shape[-2:]
            raise ValueError(f"images: got {height} x {width} pixels; this prior judges {size} x {size}.")

        def encode(images: Tensor, noise: Tensor | None) -> Tensor:
            return encode_image(self._autoencoder, images, noise)

        is_divided, whole = self._parts.encode is not None, len(images)
        if images.requires_grad and torch.is_grad_enabled():
            is_divided = is_divided and whole > (self._parts.kept or 0)
            encode = checkpointed(encode) if is_divided else encode
        parts = split(whole, self._parts.encode if is_divided else None)
        latents = [encode(images[part], None if noise is None else noise[part]) for part in parts]
        joined = torch.cat(latents) if len(latents) > 1 else latents[0]
        self._watch(0, self._autoencoder.dtype, images, joined)
        return joined

    @torch.no_grad()
    def predict_noise(
        self,
        x_t: Float[Tensor, "image c h_latent w_latent"],
        t: Float[Tensor, " image"],
        inputs: PriorInputs,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Epsilon from the UNet's output, for any prediction type."""
        dtype, steps = self._unet.dtype, self._schedule.steps(t)
        outputs = []
        for part in split(len(x_t), self._parts.predict, self.num_views):
            output = self._network_output(x_t[part].to(dtype), steps[part], inputs[part])
            outputs.append(output.to(torch.float32, copy=self._is_graph))  # a replay overwrites its output
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        self._watch(1, dtype, x_t, output)
        return self._schedule.epsilon(output, x_t, t)

    @abc.abstractmethod
    def encode_text(self, prompts: list[str]) -> PriorText:
        """See `contracts.Prior.encode_text`."""

    @abc.abstractmethod
    def _network_output(self, x_t: Tensor, steps: Tensor, inputs: PriorInputs) -> Tensor:
        """The UNet's output on latents in its dtype."""

    def condition(self, observation: Observation) -> Conditions:
        """The texts of the images' views, which is all that these networks read."""
        return observation.texts

    @torch.no_grad()
    def _watch(self, network: int, dtype: torch.dtype, given: Tensor, made: Tensor) -> None:
        """Records on the device whether a float16 network produced non-finite output from finite input."""
        if dtype != torch.float16:
            return
        if self._overflows is None:
            self._overflows = torch.zeros(2, dtype=torch.bool, device=given.device)
        self._overflows[network] |= given.isfinite().all() & ~made.isfinite().all()

    def why_not_finite(self) -> str | None:
        """What in this prior was not finite since the last call, as text for the log; None if the prior's
        precision is not the cause. Waits for the device: call it only after a skipped step."""
        seen = [False, False] if self._overflows is None else self._overflows.tolist()
        self._overflows = None
        if seen[0]:
            repaired = ", or give the repaired autoencoder madebyollin/sdxl-vae-fp16-fix as vae/"
            return (
                "the autoencoder's latents are beyond float16's range: set "
                f"{self._key}.dtype=bfloat16{repaired if self.pooled_dim else ''}"
            )
        if seen[1]:
            return f"the UNet's output is beyond float16's range: set {self._key}.dtype=bfloat16"
        return None

    def decode_latents(
        self, latents: Float[Tensor, "image c h_latent w_latent"]
    ) -> Float[Tensor, "image 3 h w"]:
        """Images in [0, 1] of scaled latents."""
        return decode_latents(self._autoencoder, latents)

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of the scheduler's alpha_bar at the nearest step."""
        return self._schedule.alpha(t)

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of 1 - alpha_bar at the nearest step."""
        return self._schedule.sigma(t)

    def sample(
        self,
        prompts: list[str],
        noise: Float[Tensor, "image c h_latent w_latent"],
        *,
        guidance_scale: float = 7.5,
        num_steps: int = 30,
    ) -> Float[Tensor, "image 3 h w"]:
        """Images of prompts by DDIM with classifier-free guidance, to see what a prior knows."""
        latents = ddim(self, prompts, noise, guidance_scale=guidance_scale, num_steps=num_steps)
        return self.decode_latents(latents)


def _meta_copy(network: Any) -> Any:
    with torch.device("meta"):
        copied = type(network).from_config(network.config)
    return nn.Module.to(copied, network.dtype).eval().requires_grad_(False)
