"""The public interface for inference: a trained generator with its text encoder, and the assets it makes.

    pipe = TextTo3D.from_pretrained("outputs/tiny")  # a run, an exported generator, or nothing: the shipped
    asset = pipe("a red-eyed tree frog", seed=0)
    asset.export("frog.glb")

No prior is loaded. World axes (z up, front +x) everywhere but in exported GLB files.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from scaledreamer import generators, rendering
from scaledreamer.asset import Asset
from scaledreamer.contracts import GeneratorText, Renderer, Scene, SceneBatch
from scaledreamer.exported import (
    CLASS_NAME,
    FORMAT_VERSION,
    INDEX,
    SHIPPED,
    WEIGHTS,
    check_files,
    file_hashes,
    find_generator,
    load_weights,
    read_index,
    weights_hash,
)
from scaledreamer.files import replacing_folder
from scaledreamer.os_errors import advice, reason
from scaledreamer.prompt_text import check_prompt
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.prompts.interpolation import interpolate_conditions
from scaledreamer.prompts.stream import SampleRandom
from scaledreamer.prompts.words import short
from scaledreamer.trained_on import FILE as TRAINED_ON
from scaledreamer.trained_on import TrainedOn
from scaledreamer.version import __version__
from scaledreamer.vocabulary import Vocabulary


def draw_noise(generator: Any, seed: int, batch: int) -> Float[Tensor, "batch z"] | None:
    """Noise z for a seed: the same for each prompt of a batch, so that assets do not depend on the batch.

    None for a generator without noise.
    """
    if not generator.has_noise:
        return None
    z = SampleRandom(seed, 0, 0).normal("z", (generator.noise_dim,))
    return z.to(next(generator.parameters()).device).expand(batch, -1)


class TextTo3D:
    """A generator with its text encoder: prompts in, assets out.

    Args:
        conditioner: the text encoder that the generator was trained with.
        generator: maps a `GeneratorText`, and noise if it takes any, to scenes; its `config` has the
            arguments of its constructor.
        generator_name: as in the configuration.
        cameras: section of the configuration; turntables use the middle of ranges.
        renderer: name and settings of the renderer; None is the default one.
        step: training step of the weights, for information.
        trained_on: summary of the training's prompts; None if there is none.
    """

    def __init__(
        self,
        conditioner: TextConditioner,
        generator: Any,
        *,
        generator_name: str = "hyper_ingp",
        cameras: Mapping[str, Any] | None = None,
        renderer: Mapping[str, Any] | None = None,
        step: int | None = None,
        trained_on: TrainedOn | None = None,
    ) -> None:
        self.conditioner, self.generator, self.generator_name = conditioner, generator, generator_name
        self.cameras, self.renderer, self.step = dict(cameras or {}), dict(renderer or {}), step
        self.trained_on = trained_on
        self.device = torch.device("cpu")
        self.folder: Path | None = None
        self.checkpoint_hash: str | None = None

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path | None = None, *, device: str = "auto") -> TextTo3D:
        """Loads a run's folder, an exported generator, one on the Hugging Face hub, or (None) the shipped
        one.

        Args:
            device: auto (CUDA if available), cpu, cuda or cuda:<number>.
        Raises: ValueError that says what is wrong with the folder or the device.
        """
        target = _check_device(device)
        folder = find_generator(folder_or_id)
        index = read_index(folder)
        check_files(folder, index)
        try:
            generator = generators.make(index["generator"]["name"], index["generator"]["settings"])
        except ValueError as error:
            raise ValueError(
                f"checkpoint {folder}: {error} Use the version of scaledreamer that exported it, or export "
                "it again"
            ) from None
        load_weights(generator, folder)
        if not (folder / "text_encoder").is_dir():
            raise ValueError(
                f"checkpoint {folder}: has no text_encoder/ and serves generator.start alone; copy the whole "
                "folder, or convert it again with --conditioner"
            )
        conditioner = TextConditioner.from_pretrained(folder)
        for name in ("condition_dim", "token_dim"):
            found = getattr(conditioner, name)
            wanted = index["generator"]["settings"].get(name, found)  # not named: not read
            if found != wanted:
                raise ValueError(
                    f"checkpoint {folder}: its text encoder gives {found} numbers, its generator reads "
                    f"{wanted}; copy the whole folder or export it again"
                )
        pipe = cls(
            conditioner,
            generator.eval().requires_grad_(False),
            generator_name=index["generator"]["name"],
            cameras=index["cameras"],
            renderer=index["renderer"],
            step=index.get("step"),
            trained_on=TrainedOn.read(folder),
        )
        try:
            pipe.make_renderer()
        except (ValueError, TypeError) as error:  # a setting of another type
            raise ValueError(
                f"checkpoint {folder}: renderer in {INDEX}: {error}; export the generator again"
            ) from None
        pipe.folder, pipe.checkpoint_hash = folder, weights_hash(folder)
        return pipe.to(target)

    def to(self, device: torch.device | str) -> TextTo3D:
        """Moves generator and text encoder; returns itself."""
        self.device = torch.device(device)
        self.generator.to(self.device)
        self.conditioner.to(self.device)
        return self

    def check(self, prompt: str) -> list[str]:
        """Notes on what will be ignored or misread in a prompt, one line each: words and combinations that
        the training did not have, and text beyond the limit.

        Raises: ValueError if the prompt is empty or too long, and as `Vocabulary.check`.
        """
        check_prompt(prompt)
        notes = Vocabulary(self.conditioner.words, self.trained_on).check(prompt)
        cut = self._cut_off(prompt)
        if cut:
            limit = self.conditioner.max_tokens
            notes.append(f"the text encoder reads {limit} tokens; ignored from here on: {short(cut, 60)}")
        return notes

    @overload
    def __call__(self, prompt: str, *, seed: int = 0, truncation: float = 1.0) -> Asset: ...

    @overload
    def __call__(self, prompt: Sequence[str], *, seed: int = 0, truncation: float = 1.0) -> list[Asset]: ...

    def __call__(
        self, prompt: str | Sequence[str], *, seed: int = 0, truncation: float = 1.0
    ) -> Asset | list[Asset]:
        """The asset of a prompt, or a list of assets of several prompts, with a forward pass for each.

        They are not batched, because the rounding of matrix products depends on the number of rows, and a
        prompt's asset must not depend on the others. On a CPU a batch takes as long as its parts.

        `seed` and `truncation` are those of `scenes`; warns about what `check` finds.

        Raises: ValueError as `check` and `scenes`, or for an empty list.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompts: got an empty list; give at least one prompt.")
        notes = [self.check(each) for each in prompts]
        for note in dict.fromkeys(note for each in notes for note in each):
            warnings.warn(note, UserWarning, stacklevel=2)
        assets = [
            self._asset(each, seed, self.scenes([each], seed=seed, truncation=truncation).row(0), its_notes)
            for each, its_notes in zip(prompts, notes, strict=True)
        ]
        return assets[0] if isinstance(prompt, str) else assets

    @torch.no_grad()
    def scenes(self, prompts: Sequence[str], *, seed: int = 0, truncation: float = 1.0) -> SceneBatch:
        """The scenes of several prompts in one forward pass, without checks.

        Up to rounding they equal the scenes of the individual prompts.

        Args:
            seed: seed of the noise, which all prompts share; no effect on generators without noise
                (`has_noise`).
            truncation: for generators with noise, 1 uses the full noise, 0 none: the typical asset.

        Raises: ValueError for a truncation outside [0, 1], or one for a generator without noise.
        """
        return self._generate(self.conditioner(list(prompts)), seed, truncation)

    def _generate(self, condition: GeneratorText, seed: int, truncation: float) -> SceneBatch:
        """See `scenes`."""
        z = draw_noise(self.generator, seed, len(condition.pooled))
        if z is None:
            if truncation != 1:
                raise ValueError(f"truncation is {truncation}: this generator takes no noise; leave it out")
            return self.generator(condition)
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation is {truncation}: accepted is 0 to 1, as much of the noise as that")
        return self.generator(condition, z, truncation=truncation)

    def interpolate(
        self, first: str, second: str, num_frames: int, *, seed: int = 0, truncation: float = 1.0
    ) -> list[Asset]:
        """Assets from one prompt to another; the first and last are those of the two prompts.

        The text features are interpolated (`interpolate_conditions`); `seed` and `truncation`, as in
        `scenes`, are the same in all frames.

        Raises: ValueError as `check` and `scenes`, or for fewer than 2 frames.
        """
        return list(self.interpolate_lazily(first, second, num_frames, seed=seed, truncation=truncation))

    @torch.no_grad()
    def interpolate_lazily(
        self, first: str, second: str, num_frames: int, *, seed: int = 0, truncation: float = 1.0
    ) -> Iterator[Asset]:
        """As `interpolate`, but yields one asset after the other and keeps only one scene.

        Raises: ValueError as `interpolate`; for a wrong truncation, only at the first asset.
        """
        if num_frames < 2:
            raise ValueError(f"num_frames is {num_frames}: from one prompt to another there are at least 2.")
        notes = list(dict.fromkeys(note for prompt in (first, second) for note in self.check(prompt)))
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        start, end = self.conditioner([first]), self.conditioner([second])
        if not self.generator.config.get("mask_padding", True):  # it attends to padding like to any token
            start, end = (each._replace(mask=torch.ones_like(each.mask)) for each in (start, end))
        fractions = torch.linspace(0, 1, num_frames, device=start.pooled.device)

        def make_assets() -> Iterator[Asset]:
            for fraction in fractions.split(1):
                with torch.no_grad():
                    scenes = self._generate(interpolate_conditions(start, end, fraction), seed, truncation)
                at = float(fraction)
                name = first if at == 0 else second if at == 1 else f"{first} to {second}"
                yield self._asset(name, seed, scenes.row(0), notes)

        return make_assets()

    def _asset(self, prompt: str, seed: int, scene: Scene, notes: list[str]) -> Asset:
        return Asset(
            prompt,
            seed if self.has_noise else None,
            scene,
            notes=notes,
            terms_of_use=self.terms_of_use,
            renderer=self.make_renderer(),
            distance=_middle(self.cameras.get("distance", 2.6)),
            fov_deg=_middle(self.cameras.get("fov_deg", 41.0)),
            device=self.device,
        )

    def make_renderer(self) -> Renderer:
        """The renderer of the training.

        Raises: ValueError for an unknown name or unknown settings.
        """
        settings = dict(self.renderer)
        return rendering.make(settings.pop("name", "volume"), settings)

    @property
    def terms_of_use(self) -> str:
        """Terms of use of the assets, in one line."""
        if self.folder == SHIPPED:
            return "Free to use for any purpose; made with the generator that scaledreamer ships."
        return "Made with a trained generator; the licence of the prior that it was trained with applies."

    @property
    def has_noise(self) -> bool:
        """Whether the assets of a prompt depend on the seed."""
        return bool(self.generator.has_noise)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes an exported generator: JSON and safetensors, never a pickle.

        The folder is replaced atomically; an existing README.md is kept.

        Raises: ValueError if the folder holds something other than an export, or cannot be written.
        """
        folder = Path(folder)
        is_export = (folder / INDEX).is_file()
        if folder.exists() and not is_export and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is not empty and not an exported generator; give another folder")
        index = {
            "_class_name": CLASS_NAME,
            "_scaledreamer_version": __version__,
            "format_version": FORMAT_VERSION,
            "generator": {"name": self.generator_name, "settings": self.generator.config},
            "cameras": self.cameras,
            "renderer": self.renderer,
            "step": self.step,
        }
        self.generator.prepare_export()
        tensors = {
            name: (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
            for name, value in self.generator.state_dict().items()
        }
        try:
            with replacing_folder(folder) as new:
                (new / WEIGHTS).parent.mkdir(parents=True)
                save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
                self.conditioner.save_pretrained(new)
                (new / "README.md").write_text(_README.format(version=__version__), encoding="utf-8")
                if (folder / "README.md").is_file():
                    shutil.copy2(folder / "README.md", new / "README.md")
                if self.trained_on is not None:
                    (new / TRAINED_ON).write_text(self.trained_on.dumps(), encoding="utf-8")
                index["sha256"] = file_hashes(new)
                (new / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{folder}: cannot be written ({reason(error)}); what was there is untouched: {advice(error)}"
            ) from None

    def _cut_off(self, prompt: str) -> str:
        """The end of the prompt that the text encoder ignores, in whole words."""
        limit = self.conditioner.max_tokens
        if self.conditioner.num_tokens(prompt) <= limit:
            return ""
        words = prompt.split()
        fits, too_many = 0, len(words)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.conditioner.num_tokens(" ".join(words[:middle])) <= limit:
                fits = middle
            else:
                too_many = middle
        return " ".join(words[fits:])


_README = """# A text-to-3D generator

Exported by scaledreamer {version}. `model_index.json` holds its settings, `generator/` its weights,
`text_encoder/` and `tokenizer/` what turns prompts into its input.

    scaledreamer infer --checkpoint FOLDER --prompt "a red-eyed tree frog"

    from scaledreamer import TextTo3D
    TextTo3D.from_pretrained("FOLDER")("a red-eyed tree frog").export("frog.glb")
"""


def _check_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r}: accepted are auto, cpu, cuda and cuda:<number>") from None
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device {device}: torch finds {count or 'no'} CUDA device(s) here; use cpu or auto")
    return target


def _middle(value: Any) -> float:
    """A number, or the middle of a range."""
    return float(np.mean(value))
