"""Training images of the tinyworld: geometry is traced once, and colours are painted at every use.

Colours do not affect edges, so a traced view (material, pattern marks and light of each pixel) can be used
for every object of the same geometry. Views are traced at twice the resolution and averaged, for
antialiasing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scaledreamer.cameras import Cameras, sample_cameras
from scaledreamer.files import replacing_file
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.materials import MATERIALS, paint_material, palette, pattern_index
from scaledreamer.tinyworld.objects import primitives_of
from scaledreamer.tinyworld.primitives import Primitive
from scaledreamer.tinyworld.renderer import trace
from scaledreamer.tinyworld.scene import WorldScene

DISTANCE = (2.5, 2.7)
FOV_DEG = (38.0, 44.0)
LOW_ELEVATION_DEG, HIGH_ELEVATION_DEG = (-10.0, 45.0), (45.0, 90.0)
HIGH_FRACTION = 0.2
"""Cameras of the prior's data: the generator's default ones, and a fifth from above so that "overhead view"
occurs."""

_NOTHING = len(MATERIALS)


@dataclass
class Views:
    """Traced views before painting.

    Attributes:
        surface: material (the number of materials if nothing is hit) + 16 * marks, supersampled.
        light: light in [0, 255].
        meanings: meanings with this geometry; their colours are arbitrary.
        cameras: `batch` views of one camera each.
    """

    surface: UInt8[Tensor, "n h w"]
    light: UInt8[Tensor, "n h w"]
    meanings: list[Meaning]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.meanings)


def draw_cameras(rng: torch.Generator, count: int) -> Cameras:
    """Cameras of the prior's data, one per row, shape (count, 1)."""
    uniforms = torch.rand(count, 1, 4, generator=rng)
    low = sample_cameras(uniforms, elevation_deg=LOW_ELEVATION_DEG, distance=DISTANCE, fov_deg=FOV_DEG)
    high = sample_cameras(uniforms, elevation_deg=HIGH_ELEVATION_DEG, distance=DISTANCE, fov_deg=FOV_DEG)
    is_high = torch.rand(count, 1, generator=rng) < HIGH_FRACTION
    return replace(low, elevation=torch.where(is_high, high.elevation, low.elevation))


@torch.no_grad()
def trace_views(
    meanings: Sequence[Meaning],
    cameras: Cameras,
    size: int,
    *,
    supersampling: int = 2,
    device: torch.device | str = "cpu",
    parts: Callable[[Meaning], list[Primitive]] = primitives_of,
) -> Views:
    """Traces one camera for each meaning.

    Args:
        size: size of the painted image in pixels.
        parts: parts of the objects, see `WorldScene`.
    """
    edge = size * supersampling
    scene = WorldScene(meanings, device, parts=parts)
    origins, directions = cameras.to(device).rays(edge, edge)
    origins, directions = origins.flatten(1, 3).contiguous(), directions.flatten(1, 3).contiguous()
    depth, hit = trace(scene, origins, directions)
    count = max(int(hit.sum(1).max()), 1)
    index = hit.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    points = (origins + depth[..., None] * directions).gather(1, index[..., None].expand(-1, -1, 3))
    material, marks, light = scene.surface(points)
    surface = torch.full(hit.shape, _NOTHING, dtype=torch.uint8, device=device)
    surface.scatter_(1, index, (material + 16 * marks).to(torch.uint8))
    surface.masked_fill_(~hit, _NOTHING)
    lights = torch.zeros(hit.shape, dtype=torch.uint8, device=device)
    lights.scatter_(1, index, (light.clamp(0, 1) * 255).round().to(torch.uint8))
    return Views(
        surface.unflatten(1, (edge, edge)), lights.unflatten(1, (edge, edge)), list(meanings), cameras
    )


@torch.no_grad()
def paint_views(
    surface: UInt8[Tensor, "n h w"],
    light: UInt8[Tensor, "n h w"],
    meanings: Sequence[Meaning],
    backgrounds: Float[Tensor, "n 3"],
    size: int,
) -> tuple[Float[Tensor, "n 3 {size} {size}"], Float[Tensor, "n 1 {size} {size}"]]:
    """Paints traced views in the meanings' colours over plain backgrounds: images and coverage in [0, 1]."""
    device = surface.device
    code = surface.flatten(1).int()
    material, marks = code % 16, code // 16
    colors = torch.cat([palette(meanings, device), backgrounds.to(device)[:, None]], 1)
    rgb = paint_material(material, marks, colors, pattern_index(meanings, device))
    is_hit = material != _NOTHING
    shade = torch.where(is_hit, light.flatten(1) / 255, 1.0)
    rgb = (rgb * shade[..., None]).transpose(1, 2).unflatten(2, surface.shape[1:])
    cover = is_hit.float()[:, None].unflatten(2, surface.shape[1:])
    factor = surface.shape[1] // size
    return torch.nn.functional.avg_pool2d(rgb, factor), torch.nn.functional.avg_pool2d(cover, factor)


def visible_pixels(views: Views, size: int = 64) -> dict[str, Float[Tensor, " n"]]:
    """Number of (fractional) pixels of an image of `size` that show each attribute.

    All pixels of an object show that it wears nothing, or stands on nothing; those of its body show that it
    has no pattern. Kinds without a named part show none of it.
    """
    code = views.surface.flatten(1).int()
    material, marks = code % 16, code // 16
    pixel = (size / views.surface.shape[1]) ** 2
    shown = {
        name: (material == MATERIALS.index(name)).float() for name in ("body", "part", "wear", "support")
    }
    count = {name: where.sum(1) * pixel for name, where in shown.items()}
    kind_of_mark = pattern_index(views.meanings, code.device)[:, None]
    marked = (shown["body"] * (marks & kind_of_mark > 0)).sum(1) * pixel
    whole = (material != _NOTHING).sum(1) * pixel

    def where_said(attribute: str, said: Tensor, silent: Tensor) -> Tensor:
        is_said = torch.tensor(
            [getattr(m, attribute) is not None for m in views.meanings], device=said.device
        )
        return torch.where(is_said, said, silent)

    nothing = torch.zeros_like(whole)
    return {
        "color": count["body"] - marked,
        "part_color": where_said("part_color", count["part"], nothing),
        "pattern": where_said("pattern", marked, count["body"]),
        "wear": where_said("wear", count["wear"], whole),
        "wear_color": where_said("wear", count["wear"], nothing),
        "support": where_said("support", count["support"], whole),
        "support_color": where_said("support", count["support"], nothing),
    }


def make_views(seed: int, count: int, split: str, size: int = 64, device: str = "cpu") -> Views:
    """Draws and traces views of one split's meanings; a pure function of its arguments."""
    rng, generator = random.Random(f"{seed}|{split}"), torch.Generator().manual_seed(seed)
    meanings = [grammar.sample_meaning(rng, split) for _ in range(count)]
    cameras = draw_cameras(generator, count)
    chunk = 2 if device == "cpu" else 256  # two at a time fit into a CPU core's cache
    parts = []
    for first in range(0, count, chunk):
        rows = slice(first, first + chunk)
        chosen = Cameras(*(value[rows] for value in vars(cameras).values()))
        parts.append(trace_views(meanings[rows], chosen, size, device=device))
    surface, light = torch.cat([p.surface for p in parts]), torch.cat([p.light for p in parts])
    return Views(surface, light, meanings, cameras)


def save_views(views: Views, path: Path) -> None:
    """Writes views to a safetensors file, under a temporary name until it is complete."""
    cameras = {f"cameras.{name}": value for name, value in vars(views.cameras).items()}
    meanings = json.dumps([asdict(meaning) for meaning in views.meanings])
    tensors = {"surface": views.surface, "light": views.light} | cameras
    with replacing_file(path) as new:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, new, {"meanings": meanings})


def load_views(paths: Sequence[Path]) -> Views:
    """Reads and concatenates what `save_views` wrote.

    Raises: ValueError if a file is damaged.
    """
    tensors: dict[str, list[Tensor]] = {}
    meanings: list[Meaning] = []
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                meanings += [Meaning(**values) for values in json.loads(file.metadata()["meanings"])]
                for name in file.keys():  # noqa: SIM118
                    tensors.setdefault(name, []).append(file.get_tensor(name))
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: is damaged, or no file of views ({error}); remove it, and it is traced again"
            ) from None
    joined = {name: torch.cat(values) for name, values in tensors.items()}
    cameras = {name.removeprefix("cameras."): v for name, v in joined.items() if name.startswith("cameras.")}
    return Views(joined["surface"], joined["light"], meanings, Cameras(**cameras))


def recolor(meaning: Meaning, rng: random.Random, split: str | None = "seen") -> Meaning:
    """A meaning of the same geometry and split with everything else drawn as `grammar.sample_meaning` draws
    it.

    Raises: ValueError if no meaning of this geometry is in the split.
    """
    if split is not None and not grammar.has_geometry(split, meaning.kind, meaning.wear, meaning.support):
        shape = " + ".join(part for part in (meaning.kind, meaning.wear, meaning.support) if part)
        raise ValueError(
            f"split: the {split} split has no {shape}; choose one of {', '.join(grammar.SPLITS)}."
        )
    kind = grammar.KINDS[meaning.kind]
    free = grammar.MAX_EXTRAS - (meaning.wear is not None) - (meaning.support is not None)
    slots = ["pattern"] + ["part"] * (kind.part is not None)
    while True:
        # Same mean number of extras as in `sample_meaning`.
        extras = rng.sample(slots, min(sum(rng.random() < 0.6 for _ in range(free)), len(slots)))
        drawn = replace(
            meaning,
            color=rng.choice((*grammar.COLORS, kind.color)),
            part_color=rng.choice(grammar.COLORS) if "part" in extras else kind.part_color,
            pattern=rng.choice(grammar.PATTERNS) if "pattern" in extras else None,
            wear_color=rng.choice(grammar.COLORS) if meaning.wear else None,
            support_color=rng.choice(grammar.COLORS) if meaning.support else None,
        )
        if split is None or grammar.split_of(drawn) == split:
            return drawn


def draw_backgrounds(rng: torch.Generator, count: int) -> Float[Tensor, "{count} 3"]:
    """Plain backgrounds: a fifth white, a fifth grey, the rest of any colour."""
    kind, gray = torch.rand(count, 1, generator=rng), torch.rand(count, 1, generator=rng).expand(-1, 3)
    color = torch.rand(count, 3, generator=rng)
    return torch.where(kind < 0.2, torch.ones(3), torch.where(kind < 0.4, gray, color))
