"""ScaleDreamer's checkpoints become generators that give the same numbers: weights in the official layout,
made here, and formulas of the official modules written out naively."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from scaledreamer import generators
from scaledreamer.cli import convert_official
from scaledreamer.config import GeneratorSettings
from scaledreamer.contracts import GeneratorText
from scaledreamer.exported import load_weights, read_index, start_from
from scaledreamer.official import hyper_ingp
from scaledreamer.official.checkpoint import architecture, converter
from scaledreamer.pipeline import TextTo3D
from tests.support import reference_fields
from tests.support.official_conv3d_net import official_state as official_conv_state
from tests.support.tiny_export import tiny_pipeline

GRID = {"n_levels": 3, "n_features_per_level": 2, "log2_hashmap_size": 8, "base_resolution": 4}
HYPER_SETTINGS = {"pos_encoding_config": GRID | {"otype": "HashGrid", "per_level_scale": 1.7}}
TRIPLANE_SETTINGS: dict[str, Any] = {"space_generator_config": {"num_heads": 2, "local_text": True}}
DIM = 16
SYNTHESIS = "geometry.space_generator.synthesis."


def randomly(names: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        f"geometry.{name}": torch.randn(shape, generator=random) / math.sqrt(shape[-1])
        for name, shape in names.items()
    } | {"geometry.bbox": torch.tensor([[-2.0] * 3, [2.0] * 3]), "background.network.weight": torch.ones(2)}


def hyper_state(hidden: int = 5, width: int = 8) -> dict[str, Tensor]:
    """3 levels of 64, 256 and 256 entries with 2 features; 6 features of a point."""
    state = randomly(
        {
            "encoding.encoding.encoding.params": (2 * (64 + 256 + 256),),
            "hypernet.layers.0.weight": (width, DIM),
            "hypernet.layers.1.weight": (width,),
            "hypernet.layers.1.bias": (width,),
            "hypernet.layers.3.weight": (hidden * (2 * 6 + 4), width),
            "hypernet.layers.3.bias": (hidden * (2 * 6 + 4),),
        }
    )
    state["geometry.encoding.encoding.encoding.params"] *= 30  # a deviation of 1
    return state


def triplane_state(width: int = 8, num_layers: int = 2) -> dict[str, Tensor]:
    """Planes of 6 x 6 pixels with 4 features, from 3 x 3 tokens."""
    names: dict[str, tuple[int, ...]] = {
        "space_generator.pos_embed": (1, 27, width),
        "space_generator.norm.weight": (width,),
        "space_generator.norm.bias": (width,),
        "space_generator.deconv.weight": (width, 4, 2, 2),
    }
    for number in range(num_layers):
        layer = f"space_generator.layers.{number}"
        for norm in ("norm1", "norm2", "norm3"):
            names |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
        for kind, inputs in (("cross_attn", DIM), ("self_attn", width)):
            names |= {
                f"{layer}.{kind}.to_q.weight": (width, width),
                f"{layer}.{kind}.to_k.weight": (width, inputs),
                f"{layer}.{kind}.to_v.weight": (width, inputs),
                f"{layer}.{kind}.to_out.0.weight": (width, width),
                f"{layer}.{kind}.to_out.0.bias": (width,),
            }
        names |= {f"{layer}.mlp.0.weight": (4 * width, width), f"{layer}.mlp.0.bias": (4 * width,)}
        names |= {f"{layer}.mlp.3.weight": (width, 4 * width), f"{layer}.mlp.3.bias": (width,)}
    for network, outputs in (("sdf_network", 1), ("feature_network", 3)):
        names |= {f"{network}.layers.0.weight": (5, 12), f"{network}.layers.2.weight": (5, 5)}
        names |= {f"{network}.layers.4.weight": (outputs, 5)}
    return randomly(names)


def condition() -> GeneratorText:
    random = torch.Generator().manual_seed(2)
    pooled, tokens = torch.randn(1, DIM, generator=random), torch.randn(1, 6, DIM, generator=random)
    return GeneratorText(pooled, tokens, torch.arange(6)[None] < 4)


def points() -> Tensor:
    """In our cube."""
    return torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(3)) * 1.9 - 0.95


def official_hyper(state: dict[str, Tensor], text: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance and colour at points of the cube of half-width 2."""
    s = {name.removeprefix("geometry."): value for name, value in state.items()}
    hidden = F.layer_norm(
        s["hypernet.layers.0.weight"] @ text,
        (8,),
        s["hypernet.layers.1.weight"],
        s["hypernet.layers.1.bias"],
    )
    numbers = s["hypernet.layers.3.weight"] @ F.silu(hidden) + s["hypernet.layers.3.bias"]
    table = s["encoding.encoding.encoding.params"].view(-1, 2)
    x = reference_fields.hash_grid(
        table, at / 2, num_levels=3, log2_table_size=8, base_resolution=4, growth=1.7
    )
    first, second = numbers[:30].view(6, 5), numbers[30:35].view(5, 1)
    third, fourth = numbers[35:65].view(6, 5), numbers[65:].view(5, 3)
    sdf = (x @ first).relu() @ second
    return sdf[:, 0] + at.norm(dim=-1) - 0.5, torch.sigmoid((x @ third).relu() @ fourth)


def official_triplane(state: dict[str, Tensor], text: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance and colour at points of the cube of half-width 2; text "token d"."""
    s = {name.removeprefix("geometry."): value for name, value in state.items()}

    def attend(x: Tensor, to: Tensor, name: str) -> Tensor:
        q, k, v = (y @ s[f"{name}.to_{part}.weight"].T for part, y in (("q", x), ("k", to), ("v", to)))
        heads = []
        for a, b, c in zip(q.chunk(2, 1), k.chunk(2, 1), v.chunk(2, 1), strict=True):
            heads.append((a @ b.T / math.sqrt(a.shape[1])).softmax(1) @ c)
        return torch.cat(heads, 1) @ s[f"{name}.to_out.0.weight"].T + s[f"{name}.to_out.0.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (8,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    x = s["space_generator.pos_embed"][0]
    for number in range(2):
        layer = f"space_generator.layers.{number}"
        x = x + attend(norm(x, f"{layer}.norm1"), text, f"{layer}.cross_attn")
        normed = norm(x, f"{layer}.norm2")
        x = x + attend(normed, normed, f"{layer}.self_attn")
        hidden = F.gelu(norm(x, f"{layer}.norm3") @ s[f"{layer}.mlp.0.weight"].T + s[f"{layer}.mlp.0.bias"])
        x = x + hidden @ s[f"{layer}.mlp.3.weight"].T + s[f"{layer}.mlp.3.bias"]
    x = norm(x, "space_generator.norm").view(3, 3, 3, 8)
    planes = torch.zeros(3, 4, 6, 6)
    for j in range(3):
        for i in range(3):
            block = torch.einsum("pd,dcuv->pcuv", x[:, j, i], s["space_generator.deconv.weight"])
            planes[:, :, 2 * j : 2 * j + 2, 2 * i : 2 * i + 2] = block
    features = []
    for plane, axes in zip(planes, ([0, 1], [0, 2], [2, 1]), strict=True):
        looked_up = F.grid_sample(plane[None], (at[:, axes] / 2)[None, None], align_corners=False)
        features.append(looked_up[0, :, 0].T)
    outputs = []
    for network in ("sdf_network", "feature_network"):
        y = torch.cat(features, 1)
        for layer in (0, 2):
            y = (y @ s[f"{network}.layers.{layer}.weight"].T).relu()
        outputs.append(y @ s[f"{network}.layers.4.weight"].T)
    return outputs[0][:, 0] + at.norm(dim=-1) - 0.8, torch.sigmoid(outputs[1])


def test_hyper_ingp_gives_the_official_numbers() -> None:
    state = hyper_state()
    assert architecture(state) == "hyper_ingp"
    settings, weights = converter("hyper_ingp")(state, HYPER_SETTINGS)
    generator = generators.make("hyper_ingp", settings)
    generator.load_state_dict(weights)
    sdf, rgb = generator(condition()).query(points())
    expected_sdf, expected_rgb = official_hyper(state, condition().pooled[0], 2 * points()[0])
    assert float((expected_sdf - 2 * points()[0].norm(dim=-1)).std()) > 0.01
    torch.testing.assert_close(2 * sdf[0], expected_sdf, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgb[0], expected_rgb, rtol=1e-4, atol=1e-5)


def test_triplane_transformer_gives_the_official_numbers() -> None:
    """Padding included, which the official one looks at."""
    state = triplane_state()
    assert architecture(state) == "triplane_transformer"
    settings, weights = converter("triplane_transformer")(state, TRIPLANE_SETTINGS)
    generator = generators.make("triplane_transformer", settings)
    generator.load_state_dict(weights)
    sdf, rgb = generator(condition()).query(points())
    expected_sdf, expected_rgb = official_triplane(state, condition().tokens[0], 2 * points()[0])
    assert float((expected_sdf - 2 * points()[0].norm(dim=-1)).std()) > 0.01
    torch.testing.assert_close(2 * sdf[0], expected_sdf, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgb[0], expected_rgb, rtol=1e-4, atol=1e-5)


def test_settings_that_no_weight_shows_are_the_published_ones() -> None:
    settings, _ = converter("triplane_transformer")(triplane_state(16), {})
    assert settings["num_heads"] == 16 and settings["sphere_radius"] == 0.4
    assert hyper_ingp.PUBLISHED["sdf_bias_params"] == 0.5
    settings, _ = converter("hyper_ingp")(hyper_state(), HYPER_SETTINGS | {"radius": 1.0})
    assert settings["sphere_radius"] == 0.5


def test_a_conv3d_net_becomes_an_exported_generator(tmp_path: Path) -> None:
    """As a program: the file is found to be one, and what is exported gives the official numbers again."""
    state = official_conv_state()
    assert (
        convert_official.main([str(write_checkpoint(tmp_path, state)), "--out", str(tmp_path / "out")]) == 0
    )
    index = read_index(tmp_path / "out")
    assert index["generator"]["name"] == "conv3d_net" and index["step"] == 123
    generator: Any = generators.make("conv3d_net", index["generator"]["settings"])
    load_weights(generator, tmp_path / "out")
    given = condition()._replace(pooled=condition().pooled[:1, :5])
    scene = generator(given, torch.ones(1, generator.noise_dim))
    settings, weights = converter("conv3d_net")(state, {})
    other: Any = generators.make("conv3d_net", settings)
    other.load_state_dict(weights)
    expected = other(given, torch.ones(1, other.noise_dim))
    for found, wanted in zip(scene.query(points()[:1]), expected.query(points()[:1]), strict=True):
        torch.testing.assert_close(found, wanted)
    assert generator.mapping.mean.any()


def write_checkpoint(folder: Path, state: dict[str, Tensor], **others: Any) -> Path:
    torch.save({"state_dict": state, "epoch": 0, "global_step": 123} | others, folder / "official.pth")
    return folder / "official.pth"


def write_config(folder: Path, geometry: dict[str, Any]) -> Path:
    path = folder / "official.yaml"
    path.write_text(yaml.safe_dump({"system": {"geometry": geometry, "renderer": {"radius": "${x}"}}}))
    return path


def test_the_program_writes_what_a_pipeline_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    checkpoint = write_checkpoint(tmp_path, hyper_state())
    config, out = write_config(tmp_path, HYPER_SETTINGS | {"radius": 2.0}), tmp_path / "out"
    arguments = [str(checkpoint), "--config", str(config), "--out", str(out)]
    assert convert_official.main([*arguments, "--conditioner", str(tmp_path / "tiny")]) == 0, (
        capsys.readouterr().err
    )
    pipe = TextTo3D.from_pretrained(out, device="cpu")
    assert (pipe.generator_name, pipe.step) == ("hyper_ingp", 123)
    assert pipe.renderer["beta"] == 1 / 60
    sdf = pipe("a red cube").scene.sdf(points())
    text = pipe.conditioner(["a red cube"]).pooled[0]
    expected, _ = official_hyper(hyper_state(), text, 2 * points()[0])
    torch.testing.assert_close(2 * sdf[0], expected, rtol=1e-4, atol=1e-5)


def test_without_a_text_encoder_a_training_can_start_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = write_checkpoint(tmp_path, triplane_state()), tmp_path / "out"
    config = write_config(tmp_path, TRIPLANE_SETTINGS)
    assert convert_official.main([str(checkpoint), "--out", str(out), "--config", str(config)]) == 0
    assert "(no text encoder)" in capsys.readouterr().out
    settings, weights = converter("triplane_transformer")(triplane_state(), TRIPLANE_SETTINGS)
    generator = generators.make("triplane_transformer", settings)
    start_from(generator, GeneratorSettings(name="triplane_transformer"), str(out))
    torch.testing.assert_close(generator.state_dict(), weights)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("triplane_transformer", {"radius": True}, "radius is True: accepted is a number above 0"),
        ("triplane_transformer", {"sdf_bias_params": math.inf}, "sdf_bias_params is inf: accepted"),
        (
            "triplane_transformer",
            {"space_generator_config": {"num_heads": 2.5}},
            "num_heads is 2.5: accepted is a whole number, at least 1",
        ),
        ("triplane_transformer", {"space_generator_config": 2}, "space_generator_config is 2: accepted is a"),
        ("hyper_ingp", {"pos_encoding_config": [1]}, r"pos_encoding_config is \[1\]: accepted is a section"),
        ("hyper_ingp", {"pos_encoding_config": {"n_levels": "x"}}, "n_levels is 'x': accepted is a whole"),
        ("hyper_ingp", {"pos_encoding_config": {"per_level_scale": "x"}}, "per_level_scale is 'x': accepted"),
        (
            "hyper_ingp",
            HYPER_SETTINGS | {"hypernet_config": {"out_dims": {"sdf_weights": [5, 1]}}},
            "out_dims is .*: accepted are equal hidden layers of one width, and 1 and 3 outputs",
        ),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    state = hyper_state() if name == "hyper_ingp" else triplane_state()
    with pytest.raises(ValueError, match=message):
        converter(name)(state, settings)


class Elsewhere:
    """A class of the user's own, as checkpoints of training frameworks hold some."""


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "objects in it": (
        lambda: hyper_state() | {"x": Elsewhere()},
        r"holds more than plain tensors.*weights_only=False",
    ),
    "another network": (lambda: {"unet.weight": torch.ones(2)}, "none of ScaleDreamer's generators"),
    "no weights": (lambda: {}, "0 tensors are of none"),
    "grid of other levels": (
        lambda: hyper_state() | {"geometry.encoding.encoding.encoding.params": torch.ones(64)},
        "holds 64 numbers, a grid of .* 1152: give the configuration",
    ),
    "part of a network": (
        lambda: without(hyper_state(), "geometry.hypernet.layers.3.bias"),
        "layers.3.bias is missing",
    ),
    "deep hyper-network": (
        lambda: hyper_state() | {"geometry.hypernet.layers.6.weight": torch.ones(3, 3)},
        r"layers.6.weight is no weight of this architecture.*n_hidden_layers: 1",
    ),
    "other MLPs": (
        lambda: hyper_state() | {"geometry.hypernet.layers.3.weight": torch.ones(33, 8)},
        r"gives 33 numbers, and MLPs of 6 inputs and hidden layers \[2\] have 32",
    ),
    "pooled text": (
        lambda: triplane_state() | {"geometry.space_generator.proj.weight": torch.ones(8, DIM)},
        "local_text: false.*local_text: true",
    ),
    "unknown weight": (
        lambda: triplane_state() | {"geometry.deformation_network.layers.0.weight": torch.ones(3)},
        "geometry.deformation_network.layers.0.weight is no weight of this architecture",
    ),
    "no layer": (
        lambda: {key: value for key, value in triplane_state().items() if "generator.layers" not in key},
        "layers.0.norm1.weight is missing",
    ),
    "a layer of another width": (
        lambda: hyper_state() | {"geometry.hypernet.layers.1.bias": torch.ones(7)},
        r"do not fit together \(1 tensors differ, first hyper.1.bias \(expected \(8,\), found \(7,\)\)",
    ),
    "parts that cannot be joined": (
        lambda: (
            triplane_state() | {"geometry.space_generator.layers.0.cross_attn.to_k.weight": torch.ones(8)}
        ),
        "its weights do not fit together .*; they are damaged, or of a variant",
    ),
    "a number in the place of a weight": (
        lambda: hyper_state() | {"geometry.hypernet.layers.0.weight": torch.tensor(1.0)},
        "its weights do not fit together .*; they are damaged, or of a variant",
    ),
    "an empty field of noise": (
        lambda: official_conv_state() | {f"{SYNTHESIS}blocks.0.conv1.noise_const": torch.zeros(0)},
        "its weights do not fit together .*; they are damaged, or of a variant",
    ),
    "diverged": (
        lambda: hyper_state() | {"geometry.hypernet.layers.1.bias": torch.full((8,), math.nan)},
        "geometry.hypernet.layers.1.bias holds numbers that are not finite",
    ),
    "half a layer": (
        lambda: without(triplane_state(), "geometry.space_generator.layers.1.self_attn.to_k.weight"),
        "layers.1.self_attn.to_k.weight is missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, message = BAD[case]
    checkpoint, config = write_checkpoint(tmp_path, make()), write_config(tmp_path, HYPER_SETTINGS)
    assert (
        convert_official.main([str(checkpoint), "--out", str(tmp_path / "out"), "--config", str(config)]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_bad_files_and_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error_of(*arguments: object) -> str:
        assert convert_official.main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "cannot be read (No such file" in error_of(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    assert "is damaged, or no checkpoint of torch" in error_of(tmp_path / "text.pth")
    whole = write_checkpoint(tmp_path, hyper_state()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    assert "is damaged, or no checkpoint of torch; download" in error_of(tmp_path / "cut.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "is damaged, or no checkpoint of torch" in error_of(tmp_path / "empty.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    assert "holds no weights by name" in error_of(tmp_path / "list.pth")
    good = write_checkpoint(tmp_path, hyper_state())
    assert "give the configuration of this checkpoint" in error_of(good)
    (tmp_path / "other.yaml").write_text("a: 1\n")
    assert "no section system.geometry" in error_of(good, "--config", tmp_path / "other.yaml")
    assert "--config" in error_of(good, "--config", tmp_path / "none.yaml")
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    state = hyper_state() | {"geometry.hypernet.layers.0.weight": torch.ones(8, 5)}
    other, config = write_checkpoint(tmp_path, state), write_config(tmp_path, HYPER_SETTINGS)
    none = error_of(other, "--config", config, "--conditioner", tmp_path / "none")
    assert none.startswith(f"error: --conditioner {tmp_path / 'none'}: no such folder")
    message = error_of(other, "--config", config, "--conditioner", tmp_path / "tiny")
    assert "gives 16 numbers, this generator reads 5" in message
    conv = {"geometry.space_generator.synthesis.first_block.const": torch.ones(1)}
    assert "mapping.embed.weight is missing" in error_of(write_checkpoint(tmp_path, conv))


@pytest.mark.parametrize(
    ("make", "geometry", "message"),
    [
        (
            hyper_state,
            {"pos_encoding_config": 3},
            "system.geometry.pos_encoding_config is 3; accepted is a sec",
        ),
        (
            hyper_state,
            {"pos_encoding_config": {"n_levels": "x"}},
            "pos_encoding_config.n_levels is 'x': accepted",
        ),
        (
            hyper_state,
            HYPER_SETTINGS | {"hypernet_config": {"out_dims": 4}},
            "hypernet_config.out_dims is 4: acc",
        ),
        (
            triplane_state,
            {"space_generator_config": {"num_heads": 2.5}},
            "num_heads is 2.5: accepted is a whole",
        ),
    ],
)
def test_settings_of_other_types_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], dict[str, Tensor]],
    geometry: dict[str, Any],
    message: str,
) -> None:
    checkpoint, config = write_checkpoint(tmp_path, make()), write_config(tmp_path, geometry)
    assert (
        convert_official.main([str(checkpoint), "--out", str(tmp_path / "out"), "--config", str(config)]) == 2
    )
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_text_encoder_that_cannot_be_reached_is_an_error_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    checkpoint, config = write_checkpoint(tmp_path, hyper_state()), write_config(tmp_path, HYPER_SETTINGS)
    command = [str(checkpoint), "--out", str(tmp_path / "out"), "--config", str(config)]
    start = time.monotonic()
    assert convert_official.main([*command, "--conditioner", "owner/name"]) == 2
    assert time.monotonic() - start < 10
    assert "error: --conditioner owner/name: no such folder here, and http://127" in capsys.readouterr().err


def test_what_has_no_text_encoder_makes_no_assets_and_says_so(tmp_path: Path) -> None:
    checkpoint, config = write_checkpoint(tmp_path, hyper_state()), write_config(tmp_path, HYPER_SETTINGS)
    assert (
        convert_official.main([str(checkpoint), "--out", str(tmp_path / "out"), "--config", str(config)]) == 0
    )
    with pytest.raises(ValueError, match="has no text_encoder/ and serves generator.start alone"):
        TextTo3D.from_pretrained(tmp_path / "out", device="cpu")
