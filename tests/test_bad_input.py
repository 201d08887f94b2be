"""Bad input of `infer.py` and `train.py`, as one table: one clear line, nothing lost, nothing half-written.

Every row runs the program in this process, in a folder of its own, and compares that folder before and after.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaledreamer.asset import Asset
from scaledreamer.cli import infer, train
from scaledreamer.training.metrics import Report
from scaledreamer.training.step import Trainer
from tests.support.random_models import write_random_prior
from tests.support.runs import write_config
from tests.support.tiny_export import tiny_pipeline

ROOT = Path(__file__).parent.parent
PROMPT = "a red-eyed tree frog"
LONG = "x" * 300
Prepare = Callable[[Path], object]
Patch = Callable[[pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        program: "infer" or "train".
        name: what is wrong.
        arguments: on the command line, beside those in `COMMON`; paths are relative to the case's folder.
        message: what stderr (or stdout, if the status is 0) has to contain, literally.
        prepare: brings the folder into its state; it holds `checkpoint` (an export) and `run` where
            `copies` names them, and for `train` config.yaml, prompts.txt and a link to a `prior`.
        patch: changes of the process.
        limit: bytes that a file may have, as on a full disk.
        code: exit status.
        may_leave: whole files and folders that a run has rightly written before it failed.
        is_bare: without `COMMON`.
    """

    program: str
    name: str
    arguments: list[str]
    message: str
    prepare: Prepare | None = None
    patch: Patch | None = None
    copies: tuple[str, ...] = ()
    limit: int | None = None
    code: int = 2
    may_leave: tuple[str, ...] = ()
    is_bare: bool = False


COMMON = {
    "infer": ["--output", "new", "--device", "cpu", "--resolution", "32", "--texture-size", "64"]
    + ["--max-faces", "500", "--formats", "ply", "--checkpoint", "checkpoint"],
    "train": ["--config", "config.yaml"],
}


# --- ways to bring a folder into a state -------------------------------------------------------------------


def file(name: str, content: bytes | str) -> Prepare:
    """A file, and the folders above it."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def without(name: str) -> Prepare:
    """A file or a folder removed."""

    def prepare(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return prepare


def truncated(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return prepare


def flipped(name: str, at: int = -9) -> Prepare:
    """One bit of a file flipped."""

    def prepare(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[at] ^= 4
        (folder / name).write_bytes(data)

    return prepare


def index(changes: Callable[[dict[str, Any]], object], name: str = "checkpoint/model_index.json") -> Prepare:
    """The index of a checkpoint changed; `changes` edits it in place."""

    def prepare(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        changes(data)
        (folder / name).write_text(json.dumps(data))

    return prepare


def settings(**changes: Any) -> Prepare:
    """The generator's settings in an export's index changed."""
    return index(lambda data: data["generator"]["settings"].update(changes))


unhashed = index(lambda data: data.pop("sha256"))
"""An export of a version that wrote no hashes: what is wrong has to be noticed without them."""


def both(*steps: Prepare) -> Prepare:
    return lambda folder: [step(folder) for step in steps]


def foreign_weights(name: str) -> Prepare:
    return lambda folder: save_file({"x": torch.zeros(3)}, folder / name)


def every_checkpoint(step: Callable[[str], Prepare], name: str) -> Prepare:
    """The same damage in all checkpoints of `run`."""
    return lambda folder: [
        step(str(path.relative_to(folder) / name))(folder)
        for path in sorted(folder.glob("run/checkpoints/step-*"))
    ]


def other_parameters(folder: Path) -> None:
    """Checkpoints whose configuration is this one's, but whose tensors have other sizes."""
    for path in folder.glob("run/checkpoints/step-*/parameters.safetensors"):
        save_file({name: torch.zeros(*value.shape, 2) for name, value in load_file(path).items()}, path)
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        place = str((path.parent / "checkpoint.json").relative_to(folder))
        index(lambda data, hashes=hashes: data["sha256"].update(hashes), place)(folder)


def other_text_encoder(folder: Path) -> None:
    """A text encoder that is whole, of another width than the generator reads."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = json.loads((folder / "checkpoint/text_encoder/config.json").read_text())
    sizes = {name: config[name] for name in ("vocab_size", "max_position_embeddings")}
    small = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, **sizes
    )
    CLIPTextModel(small).save_pretrained(folder / "checkpoint" / "text_encoder")


def environment(**changes: str) -> Patch:
    return lambda monkeypatch: [monkeypatch.setenv(name, value) for name, value in changes.items()]


def stdin(data: bytes) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere


def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


# --- the table ---------------------------------------------------------------------------------------------


def prompts(*texts: str) -> list[str]:
    return [f"--prompt={text}" for text in texts]


def infer_case(
    name: str, arguments: list[str], message: str, prepare: Prepare | None = None, **more: Any
) -> Case:
    more.setdefault("copies", ("checkpoint",))
    return Case("infer", name, arguments, message, prepare, **more)


def flag_case(arguments: str, message: str) -> Case:
    return infer_case(arguments, [f"--prompt={PROMPT}", *arguments.split(" ")], message, copies=())


def checkpoint_case(name: str, prepare: Prepare | None, message: str, checkpoint: str = "checkpoint") -> Case:
    arguments = [f"--prompt={PROMPT}", "--checkpoint", checkpoint]
    return infer_case(f"checkpoint: {name}", arguments, message, prepare)


def file_case(name: str, content: bytes, message: str) -> Case:
    arguments = ["--prompts-file", "list.txt"]
    return infer_case(f"prompts file: {name}", arguments, message, file("list.txt", content))


def output_case(name: str, output: str, message: str, prepare: Prepare | None = None, **more: Any) -> Case:
    return infer_case(
        f"output: {name}", [f"--prompt={PROMPT}", f"--output={output}"], message, prepare, **more
    )


def full_case(kind: str, message: str) -> Case:
    arguments = [f"--prompt={PROMPT}", "--formats", kind]
    return infer_case(f"full disk: {kind}", arguments, message, limit=1500, may_leave=("new",))


def setting_case(*arguments: str, message: str, **more: Any) -> Case:
    name = " ".join(arguments)
    return Case("train", name if len(name) < 90 else f"{name[:87]}...", list(arguments), message, **more)


def config_case(name: str, content: bytes, message: str) -> Case:
    return Case("train", f"config: {name}", [], message, file("config.yaml", content))


def corpus_case(name: str, suffix: str, content: bytes, message: str) -> Case:
    arguments = [f"prompts.file=list.{suffix}"]
    return Case("train", f"corpus: {name}", arguments, message, file(f"list.{suffix}", content))


def prior_case(name: str, damage: Prepare, message: str, key: str = "priors.0.model") -> Case:
    prepare = both(lambda folder: shutil.copytree(folder / "prior", folder / "damaged"), damage)
    return Case("train", f"{key}: {name}", [f"{key}=damaged"], message, prepare)


def run_case(name: str, prepare: Prepare, message: str, *arguments: str) -> Case:
    return Case("train", f"run: {name}", list(arguments), message, prepare, copies=("run",))


NOT_EXPORTED = "it is not what was exported with the rest; copy the whole folder or export it again"

INFER = [
    # prompts that cannot be made
    infer_case("no prompt", [], "nothing to make: give --prompt, --prompts-file, --stdin or --interpolate"),
    infer_case(
        "prompt and interpolation",
        ["--prompt", "a cat", "--interpolate", "a cat", "a dog"],
        "--prompt and --interpolate are both given; leave out one of them",
    ),
    infer_case(
        "seeds and interpolation",
        ["--seeds", "1,2", "--interpolate", "a cat", "a dog"],
        "--seeds and --interpolate are both given; leave out one of them",
    ),
    infer_case(
        "variants and interpolation",
        ["--num-variants", "2", "--interpolate", "a cat", "a dog"],
        "--num-variants and --interpolate are both given; leave out one of them",
    ),
    infer_case("one end", ["--interpolate", "a cat"], "--interpolate: expected 2 arguments"),
    infer_case("empty end", ["--interpolate", "a cat", " "], "--interpolate: "),
    infer_case(
        "one frame",
        ["--interpolate", "a cat", "a dog", "--frames", "1"],
        "--frames: got '1'; accepted are whole numbers from 2 to 360",
    ),
    infer_case(
        "frames of nothing",
        ["--prompt", "a cat", "--frames", "4"],
        "--frames: belongs to --interpolate, which is not given; leave it out",
    ),
    infer_case(
        "unknown words at one end",
        ["--interpolate", "a red cube", "zzz qqq"],
        "--interpolate: 'zzz qqq': this generator knows no word of the prompt",
    ),
    infer_case("empty prompt", prompts(""), "the prompt is empty; say what to make"),
    infer_case("blank prompt", prompts(" \n\t"), "the prompt is empty; say what to make"),
    infer_case("10,005 characters", prompts("frog " * 2001), "10005 characters; accepted are at most 10000"),
    infer_case("half a surrogate pair", prompts("frog " * 99 + "\udcff"), "is not valid text (UTF-8); check"),
    infer_case(
        "Japanese", prompts("青い蛙"), "'青い蛙': this generator knows no word of the prompt; describe"
    ),
    infer_case(
        "Cyrillic", prompts("лягушка"), "'лягушка': this generator knows no word of the prompt; describe"
    ),
    infer_case("emoji", prompts("🐸"), "'🐸': this generator knows no word of the prompt"),
    infer_case(
        "a path", prompts("../../x"), "'../../x': this generator knows no word of the prompt; describe"
    ),
    infer_case("one of two is not a prompt", prompts(PROMPT, "qwertz"), "'qwertz': this generator knows"),
    # odd prompts that are made
    infer_case(
        "10,000 characters, made", prompts("frog " * 2000), "ignored from here on: 'frog frog", code=0
    ),
    infer_case(
        "9,990 letters, made", prompts("frog " + "x" * 9990), f"may misread: '{'x' * 57}...'\n", code=0
    ),
    infer_case("Cyrillic and English, made", prompts("лягушка frog"), "may misread: 'лягушка'", code=0),
    infer_case("emoji and words, made", prompts("a frog 🐸"), "may misread: '🐸'", code=0),
    infer_case("two lines, made", prompts("a frog\nin a hat"), "new/a-frog-in-a-hat-", code=0),
    infer_case("a path with a word, made", prompts("../../frog"), "new/frog-", code=0),
    infer_case("an absolute path, made", prompts("/etc/frog"), "may misread: 'etc'", code=0),
    infer_case("a null byte, made", prompts("a\0frog"), "prompt: 'a\\x00frog'", code=0),
    infer_case("one prompt twice, made", prompts("a frog", "a frog", "a car"), "2 assets in", code=0),
    infer_case("same readable name, made", prompts("a frog", "A frog!"), "2 assets in", code=0),
    # flags
    flag_case("--checkpoint=", "--checkpoint: got ''; accepted is a folder's name, . for the current one"),
    flag_case("--resolution 15", "--resolution: got '15'; accepted are whole numbers from 16 to 512"),
    flag_case("--resolution lots", "--resolution: got 'lots'; accepted are whole numbers"),
    flag_case("--texture-size 9999", "--texture-size: got '9999'; accepted are whole numbers"),
    flag_case("--max-faces 0", "--max-faces: got '0'; accepted are whole numbers"),
    flag_case("--seed -1", "--seed: got '-1'; accepted are whole numbers from 0 to"),
    flag_case("--seeds 0,x", "--seeds: got 'x'; accepted are whole numbers from 0 to"),
    flag_case("--seeds ,", "--seeds: got ','; accepted are whole numbers separated by commas"),
    flag_case("--seed 1 --seeds 1,2", "--seeds: not allowed with argument --seed"),
    flag_case("--formats glb,fbx", "--formats: got 'glb,fbx'; accepted is a comma-separated list of glb"),
    flag_case("--formats=", "--formats: got ''; accepted is a comma-separated list"),
    flag_case("--promt x", "unrecognized arguments: --promt x (--help lists all options)"),
    flag_case("--device warp", "--device: got 'warp'; accepted are auto, cpu, cuda and cuda:<number>"),
    infer_case(
        "--device cuda without one",
        [f"--prompt={PROMPT}", "--device", "cuda"],
        "device cuda: torch finds no CUDA device(s) here; use cpu or auto",
        patch=no_cuda,
    ),
    infer_case(
        "--device cuda:99",
        [f"--prompt={PROMPT}", "--device", "cuda:99"],
        "device cuda:99: torch finds no CUDA device(s) here; use cpu or auto",
        patch=no_cuda,
    ),
    # files of prompts
    infer_case("prompts file: missing", ["--prompts-file", "none.txt"], "none.txt: cannot be read (No such"),
    infer_case(
        "prompts file: a folder", ["--prompts-file", "."], "--prompts-file .: cannot be read (Is a dir"
    ),
    infer_case(
        "prompts file: name too long", ["--prompts-file", LONG], "cannot be read (File name too long); "
    ),
    file_case("empty", b"", "--prompts-file list.txt: there is no prompt in it; give one a line"),
    file_case("blank lines", b" \n\t\n", "--prompts-file list.txt: there is no prompt in it"),
    file_case("not UTF-8", b"a frog\n\xff\xfe\n", "list.txt: line 2: not UTF-8 text; save it as UTF-8."),
    file_case("10,001 characters", b"a frog\n" + b"x" * 10_001, "list.txt: line 2: the prompt has 10001"),
    file_case(
        "unknown words", b"a frog\n\nqwertz\n", "list.txt: line 3 'qwertz': this generator knows no word"
    ),
    infer_case("standard input: empty", ["--stdin"], "--stdin: there is no prompt in it", patch=stdin(b"\n")),
    infer_case(
        "standard input: not UTF-8", ["--stdin"], "--stdin: line 1: not UTF-8 text", patch=stdin(b"\xff")
    ),
    # checkpoints
    checkpoint_case("missing", None, "checkpoint none: there is no such folder; give a run's folder", "none"),
    checkpoint_case(
        "unknown user", None, "checkpoint ~nobody-of-this-name/x: there is no", "~nobody-of-this-name/x"
    ),
    checkpoint_case("name too long", None, f"checkpoint {LONG}: there is no such folder", LONG),
    checkpoint_case(
        "a file", file("model.pt", b"PK"), "checkpoint model.pt: is a file; give a run", "model.pt"
    ),
    checkpoint_case("another folder", None, "checkpoint .: no model_index.json in it; give a run's", "."),
    checkpoint_case(
        "a run without export",
        file("begun/config.yaml", ""),
        "has not exported a generator yet; train",
        "begun",
    ),
    checkpoint_case(
        "of another program",
        file("checkpoint/model_index.json", '{"_class_name": "StableDiffusionPipeline"}'),
        "holds StableDiffusionPipeline, not a generator of this package",
    ),
    checkpoint_case(
        "index not JSON", truncated("checkpoint/model_index.json"), "model_index.json cannot be read"
    ),
    checkpoint_case(
        "index too deep",
        file("checkpoint/model_index.json", "[" * 100_000),
        "cannot be read (maximum recursion",
    ),
    checkpoint_case(
        "newer", index(lambda data: data.update(format_version=99)), "format_version is 99; accepted is 1"
    ),
    checkpoint_case(
        "index without settings",
        index(lambda data: data.pop("generator")),
        "lacks the generator's name and settings; export it again",
    ),
    checkpoint_case(
        "index with odd cameras",
        index(lambda data: data.update(cameras={"distance": "far"})),
        "cameras.distance in model_index.json is 'far'; accepted is a number above 0",
    ),
    checkpoint_case(
        "index with odd renderer",
        index(lambda data: data.update(renderer={"name": "volume", "beta": None})),
        "renderer.beta in model_index.json is None; accepted is a number above 0",
    ),
    checkpoint_case(
        "index with odd step",
        index(lambda data: data.update(step={})),
        "step or sha256 in model_index.json is",
    ),
    checkpoint_case(
        "another architecture",
        index(lambda data: data["generator"].update(name="dreamer")),
        "generator.name: got 'dreamer'; accepted are 'hyper_ingp', ",
    ),
    checkpoint_case(
        "unknown setting", settings(wings=2), "unexpected keyword argument 'wings'). Use the version"
    ),
    checkpoint_case("setting of a wrong type", settings(hyper_width="16"), "does not take these settings ("),
    checkpoint_case("setting out of range", settings(mlp_width=-1), "mlp_width is -1: it must be at least 1"),
    checkpoint_case("other settings", settings(mlp_width=8), "does not belong to its model_index.json: "),
    checkpoint_case(
        "no weights", without("checkpoint/generator"), "model.safetensors is missing; copy the whole"
    ),
    checkpoint_case("weights truncated", truncated("checkpoint/generator/model.safetensors"), NOT_EXPORTED),
    checkpoint_case(
        "weights with a flipped bit", flipped("checkpoint/generator/model.safetensors"), NOT_EXPORTED
    ),
    checkpoint_case(
        "foreign weights", foreign_weights("checkpoint/generator/model.safetensors"), NOT_EXPORTED
    ),
    checkpoint_case(
        "text encoder with a flipped bit", flipped("checkpoint/text_encoder/model.safetensors"), NOT_EXPORTED
    ),
    checkpoint_case(
        "no tokenizer",
        without("checkpoint/tokenizer"),
        "tokenizer/tokenizer.json is missing or cannot be read",
    ),
    *(
        checkpoint_case(f"{name}, without hashes", both(unhashed, damage), message)
        for name, damage, message in [
            (
                "weights truncated",
                truncated("checkpoint/generator/model.safetensors"),
                "generator/model.safetensors is damaged or truncated (",
            ),
            (
                "foreign weights",
                foreign_weights("checkpoint/generator/model.safetensors"),
                "does not belong to its model_index.json: ",
            ),
            (
                "text encoder truncated",
                truncated("checkpoint/text_encoder/model.safetensors"),
                "text_encoder/ and tokenizer/ cannot be loaded (Error while deserializing header",
            ),
            (
                "foreign text encoder",
                foreign_weights("checkpoint/text_encoder/model.safetensors"),
                "text_encoder/ has no weights for embeddings.position_embedding.weight of the size in",
            ),
            (
                "another text encoder",
                other_text_encoder,
                "its text encoder gives 8 numbers, its generator reads 16",
            ),
            (
                "no text encoder",
                without("checkpoint/text_encoder"),
                "has no text_encoder/ and serves generator.start alone; copy the whole folder",
            ),
            ("no tokenizer", without("checkpoint/tokenizer"), "so they do not belong together"),
            (
                "tokenizer not JSON",
                file("checkpoint/tokenizer/tokenizer.json", "{}"),
                "text_encoder/ and tokenizer/ cannot be loaded ('added_tokens')",
            ),
            (
                "odd words",
                file("checkpoint/tokenizer/words.json", "3"),
                "tokenizer/words.json: no list of words; copy",
            ),
        ]
    ),
    # where to write
    output_case("a file", "mine", "--output mine: ", file("mine", "stays")),
    output_case("below a file", "mine/new", "is not a folder; give another --output", file("mine", "stays")),
    output_case(
        "a dead link", "link", "is not a folder; give another", lambda f: (f / "link").symlink_to("no")
    ),
    output_case(
        "a device", "/dev/full", "--output /dev/full: /dev/full is not a folder; give another --output"
    ),
    output_case("no name", "", "--output: got ''; accepted is a folder's name, . for the current one"),
    output_case("name too long", LONG, f"--output {LONG}: cannot be made (File name too long); give another"),
    output_case(
        "not to be made", "/proc/x", "--output /proc/x: cannot be made (No such file or directory); giv"
    ),
    output_case("no permission", "new", "no permission to write in ", patch=no_permission),
    full_case("glb", ".glb: File too large; the file system or `ulimit -f` allows no"),
    full_case("obj", ".obj: File too large; the file system or `ulimit -f` allows no"),
    full_case("ply", ".ply: File too large; the file system or `ulimit -f` allows no"),
    full_case("png", ".png: File too large; the file system or `ulimit -f` allows no"),
    full_case("gif", ".gif: File too large; the file system or `ulimit -f` allows no"),
    full_case("mp4", "could not write the video "),
]

TRAIN = [
    # the command
    Case("train", "no config", [], "the following arguments are required: --config (--help", is_bare=True),
    setting_case("--dry", message="unrecognized arguments: --dry (--help lists all options)"),
    setting_case("max_steps", message="'max_steps': expected key.path=value, for example"),
    setting_case("seed='", message='seed: got "\'", which is not a YAML value; quote it if it is a text'),
    # unknown keys
    setting_case("training.batchsize=3", message="no such setting; did you mean training.batch_size?"),
    setting_case("training.max_step=3", message="no such setting; did you mean training.max_steps?"),
    setting_case("lr=1", message="lr: no such setting; did you mean optimizer.lr?"),
    setting_case("generator.hyper_ingp.levels=3", message="did you mean generator.hyper_ingp.num_levels?"),
    setting_case("priors.0.guidance=2", message="did you mean priors.0.guidance_scale?"),
    setting_case("priors.3.model=x", message="priors.3: no such item; the list has 1, numbered from 0"),
    setting_case(f"priors.{'0' * 5000}=1", message="no such item; the list has 1, numbered from 0"),
    setting_case("seed.x=1", message="seed.x: no such setting; seed is a single value (0)"),
    setting_case("training={2026-01-01: 1}", message="training.2026-01-01: no such setting; accepted here"),
    # wrong types
    setting_case("training.batch_size=a", message="training.batch_size: got 'a'; accepted is a whole number"),
    setting_case(
        "training.batch_size=true", message="training.batch_size: got True; accepted is a whole num"
    ),
    setting_case(
        "training.batch_size='3'", message="training.batch_size: got '3'; accepted is a whole number"
    ),
    setting_case("training.deterministic=1", message="deterministic: got 1; accepted is true or false"),
    setting_case("training.output=null", message="training.output: got None; accepted is a text"),
    setting_case("priors.0=3", message="priors.0: got 3; accepted is a mapping of settings"),
    setting_case(
        "cameras.fov_deg=[50]", message="cameras.fov_deg: got [50]; accepted is a list with at least"
    ),
    setting_case("optimizer.lr=[1, 2, 3]", message="optimizer.lr=[1, 2, 3]: expected a number, {start:"),
    setting_case(
        "optimizer.lr={start: 1}", message="optimizer.lr: 'end' is missing in {'start': 1}; expected"
    ),
    setting_case('training.output="\\ud800"', message="holds a text that is not valid Unicode"),
    # out of range
    setting_case(
        "training.batch_size=0", message="training.batch_size: got 0; accepted is a number at least 1"
    ),
    setting_case("training.batch_size=1000000", message="training.batch_size: got 1000000; accepted is a nu"),
    setting_case(f"training.max_steps=1{'0' * 400}", message="accepted are whole numbers up to 2147483647"),
    setting_case("seed=99999999999", message="seed: got 99999999999; accepted are whole numbers up to"),
    setting_case("training.minutes=.inf", message="training.minutes: got inf; accepted is a finite number"),
    setting_case(
        "training.zero_stage=3", message="training.zero_stage: got 3; accepted are 0, 1 and 2. Stage 3"
    ),
    setting_case("priors.0.method=vsd", message="priors.0.method: 'vsd' is not in this version; accepted a"),
    setting_case("priors.0.method=foo", message="method: got 'foo'; accepted is 'asd', 'sds' or 'csd'"),
    setting_case(
        "distillation.method=sds",
        message="distillation.method: no such setting; it is now priors.0.method, for each prior its",
    ),
    setting_case("renderer.image_size=2048", message="renderer.image_size: got 2048; accepted are whole num"),
    setting_case("renderer.image_size=32.5", message="renderer.image_size: got 32.5; accepted are whole num"),
    setting_case("renderer.image_size=[32, 62]", message="from 4 to 1024, in a schedule multiples of 4"),
    setting_case("renderer.image_size={start: 32}", message="renderer.image_size: 'end' is missing in {"),
    setting_case(
        "renderer.volume.memory_gib=0",
        message="renderer.volume.memory_gib: got 0; accepted is a number above 0",
    ),
    setting_case("distillation.t_max=1.5", message="t_max: got 1.5; accepted are values from 0 to 1"),
    setting_case("optimizer.lr=-1", message="optimizer.lr: got -1; accepted are values at least 0"),
    setting_case(f"optimizer.lr=1{'0' * 400}", message=": expected a finite number; a schedule is a number"),
    setting_case(
        "optimizer.betas=[0.9, 1]", message="optimizer.betas: got [0.9, 1.0]; accepted are two numb"
    ),
    setting_case("cameras.distance=[5, 6]", message="cameras.distance: got [5.0, 6.0]; accepted is [lowest,"),
    setting_case("priors=[]", message="priors: got []; accepted is a list with at least 1 item(s)"),
    setting_case("training.output=", message="training.output: got ''; accepted is a text that is not empty"),
    setting_case(
        "training.output=''", message="training.output: got ''; accepted is a text that is not empty"
    ),
    setting_case("training.sample_prompts=['']", message="training.sample_prompts: the prompt is empty; say"),
    setting_case(
        "generator.hyper_ingp.hyper_width=1000000000", message="hyper_width: got 1000000000; accepte"
    ),
    # settings that contradict each other
    setting_case("distillation.t_min=0.9", message="distillation.t_min: 0.9 at step"),
    setting_case(
        "distillation.t_min={start: 0.1, end: 0.9, from: 0.5, to: 0.5}",
        "distillation.t_max={start: 0.98, end: 0.5, from: 0.9, to: 0.9}",
        message="distillation.t_min: 0.9 at step 5 is above distillation.t_max, 0.5; lower it or raise t_max",
    ),
    setting_case(
        "cameras.fov_deg=[50, 40]", message="fov_deg: got [50.0, 40.0]; accepted is [lowest, highest]"
    ),
    setting_case(
        "prompts.kinds=[cat]", message="kinds, max_extras and extras choose from the tinyworld; set"
    ),
    setting_case(
        "prompts.max_extras=1", message="kinds, max_extras and extras choose from the tinyworld; set"
    ),
    setting_case(
        "prompts={file: null, holdout: 0.5}", message="prompts.holdout: keeps out prompts of a file"
    ),
    setting_case(
        "prompts.holdout=0.999", message="prompts.holdout: got 0.999, which keeps out all 12 prompts"
    ),
    setting_case(
        "prompts={file: null, kinds: [dragon]}", message="prompts.kinds: got 'dragon'; accepted are"
    ),
    setting_case(
        "priors.0={name: stable_diffusion}", message="priors.0.model: missing; stable_diffusion needs"
    ),
    setting_case(
        "conditioner.model=null", message="conditioner.model: missing; clip needs a folder or a hub id"
    ),
    setting_case(
        "evaluation.every=10", message="evaluation.every: only prompts of the tinyworld have a ground truth"
    ),
    setting_case(
        *("prompts.file=null", "evaluation={every: 2, metric: beauty}"),
        message="evaluation.metric: got 'beauty'; accepted are 'score', 'hard_r1'",
    ),
    setting_case("priors.0.eta=0.2", message="priors.0.eta: no such setting; it is now priors.0.asd.eta."),
    setting_case(
        "optimizer.momentum=0.9", message="optimizer.momentum: belongs to sgd, and optimizer.name is"
    ),
    setting_case(
        "training.accumulation_steps=3", message="training.batch_size: got 4, which cannot be divided"
    ),
    setting_case(
        "generator.hyper_ingp={growth: 4, num_levels: 32}",
        message="give level 31 more than 65536 grid points along an edge: lower growth or num_levels",
    ),
    setting_case(
        *("generator.name=conv3d_net", "generator.conv3d_net.channel_base=16"),
        message="generator conv3d_net: does not take these settings (channel_base is 16: it must be at least",
    ),
    setting_case(
        "generator.conv3d_net.resolution=48", message="conv3d_net.resolution: got 48; accepted is 8, 16, 32"
    ),
    # config files
    Case(
        "train", "config: missing", ["--config", "none.yaml"], "none.yaml: cannot be read (No such file or d"
    ),
    Case(
        "train", "config: a folder", ["--config", "."], ".: cannot be read (Is a directory); give a YAML file"
    ),
    Case("train", "config: name too long", ["--config", LONG], "cannot be read (File name too long); give a"),
    config_case(
        "not UTF-8", b"\xff\xfe\x00a", "config.yaml: not UTF-8 text (byte 0); a config is a YAML file"
    ),
    config_case("binary", b"\0" * 100, "config.yaml: not valid YAML (unacceptable character #x0000"),
    config_case("not YAML", b"a: [1", "config.yaml: not valid YAML in line 1 ("),
    config_case("a list", b"- 1\n- 2\n", "config.yaml: holds a list, expected a mapping of settings"),
    config_case("too deep", b"[" * 500, "config.yaml: not valid YAML (maximum recursion depth"),
    config_case("inside itself", b"training: &a {x: *a}", "cannot be read (Circular reference detected)"),
    config_case(
        "unknown key", b"trainin: {max_steps: 3}", "trainin: no such setting; did you mean training?"
    ),
    config_case(
        "a key twice", b"seed: 1\nseed: 2\n", "not valid YAML in line 2 ('seed' is set twice; keep one)"
    ),
    # corpora
    setting_case(
        "prompts.file=/nowhere/prompts.txt", message="/nowhere/prompts.txt: cannot be read (No such"
    ),
    corpus_case("empty", "txt", b"", "list.txt: no prompts in it; give one prompt a line"),
    corpus_case("comments only", "txt", b"# only\n\n", "list.txt: no prompts in it; give one prompt a line"),
    corpus_case("not UTF-8", "txt", b"\xff\xfea", "list.txt: not UTF-8 text, but UTF-16 or a binary"),
    corpus_case(
        "20,000 characters", "txt", b"ok\n" + b"x" * 20_000, "line 2: the prompt has 20000 characters"
    ),
    corpus_case("not JSON", "json", b"[1", "list.json: not valid JSON ("),
    corpus_case("no list", "json", b'{"test": []}', "list.json: no list 'train' in it; it has 'test'"),
    corpus_case("no text", "json", b'["a", 3]', "list.json: entry 1: 3 is not a text"),
    corpus_case("empty entry", "json", b'["a", " "]', "list.json: entry 1: the prompt is empty; say what to"),
    corpus_case("a number", "json", b"3", "list.json: expected a list of prompts, or a mapping"),
    # models
    setting_case(
        "priors.0.model=/nowhere/prior", message="priors.0.model: /nowhere/prior: no such folder or file; ch"
    ),
    setting_case(
        "conditioner.model=/nowhere", message="conditioner.model: /nowhere: no such folder or file; check"
    ),
    prior_case(
        "another folder", without("damaged/unet"), "model: damaged: no unet/ in this folder; give a pipeline"
    ),
    prior_case(
        "truncated",
        truncated("damaged/unet/diffusion_pytorch_model.safetensors"),
        ".safetensors is cut short: ",
    ),
    prior_case(
        "foreign", foreign_weights("damaged/vae/diffusion_pytorch_model.safetensors"), "cannot be loaded ("
    ),
    prior_case(
        "text truncated",
        truncated("damaged/text_encoder/model.safetensors"),
        "priors.0.model: damaged: text_encoder/model.safetensors is cut short: ",
    ),
    prior_case(
        "no scheduler", without("damaged/scheduler"), "model: damaged: no scheduler/ in this folder; give a"
    ),
    prior_case(
        "another scheduler",
        file("damaged/scheduler/scheduler_config.json", '{"prediction_type": "sample"}'),
        "priors.0.model: damaged: the scheduler's prediction_type is 'sample'; acce",
    ),
    prior_case(
        "no tokenizer", without("damaged/tokenizer"), "damaged: no tokenizer/ in this f", "conditioner.model"
    ),
    prior_case(
        "truncated",
        truncated("damaged/text_encoder/model.safetensors"),
        "conditioner.model: damaged: text_encoder/model.safetensors is cut short: ",
        "conditioner.model",
    ),
    setting_case("generator.start=none", message="generator.start: checkpoint none: there is no such folder"),
    Case(
        "train",
        "generator.start: other settings",
        ["generator.start=checkpoint"],
        "generator.start: checkpoint has num_levels 4, this configuration 2; set the same, or generator",
        copies=("checkpoint",),
    ),
    Case(
        "train",
        "generator.start: a flipped bit",
        ["generator.start=checkpoint"],
        NOT_EXPORTED,
        flipped("checkpoint/generator/model.safetensors"),
        copies=("checkpoint",),
    ),
    # where to train
    setting_case(
        "training.device=cuda", message="training.device: got 'cuda', but torch sees no CUDA", patch=no_cuda
    ),
    *(
        Case("train", f"environment {changes}", [], message, patch=environment(**changes))
        for changes, message in [
            ({"RANK": "x"}, "the environment has RANK=x, "),
            (
                {"RANK": "2", "WORLD_SIZE": "2"},
                "accepted is what a launcher sets, with RANK below WORLD_SIZE. Start",
            ),
            ({"RANK": "0", "WORLD_SIZE": ""}, "Start with deepspeed or torchrun, or unset RANK"),
            ({"RANK": "0", "MASTER_PORT": ""}, "MASTER_PORT=; "),
            *(
                (
                    {"RANK": "0", "MASTER_PORT": port},
                    f"MASTER_PORT: got {port!r}; accepted is the number of a port",
                )
                for port in ("http", "0", "65536", "-1", "9" * 5000)
            ),
            (
                {"RANK": "0", "MASTER_ADDR": "nowhere.invalid"},
                "MASTER_ADDR: got 'nowhere.invalid', which this machine cannot resolve (",
            ),
            ({"RANK": "0", "MASTER_ADDR": "x" * 70}, "deepspeed --master_addr NAME), or unset RANK to train"),
        ]
    ),
    # where to write
    setting_case("training.output=config.yaml", message="config.yaml is not a folder; choose another folder"),
    setting_case(
        "training.output=config.yaml/run", message="config.yaml is not a folder; choose another folder"
    ),
    setting_case(
        "training.output=/proc/run", message="training.output: got '/proc/run', which cannot be made ("
    ),
    setting_case(
        f"training.output={LONG}", message="which cannot be made (File name too long); choose a shorter"
    ),
    setting_case(
        'training.output="a\\0b"', message="which cannot be made (embedded null byte); check the place"
    ),
    setting_case(
        "training.output=.", message="config.yaml is no run's and would be replaced; choose another"
    ),
    setting_case("seed=1", message="no permission to write in ", patch=no_permission),
    *(
        Case("train", f"training.output: {name}", [], message, prepare)
        for name, prepare, message in [
            (
                "somebody's generator/",
                file("run/generator/thesis.tex", "stays"),
                "run/generator is not an exported generator; choose another folder",
            ),
            (
                "a file named samples",
                file("run/samples", "stays"),
                "run/samples is not a folder; choose another",
            ),
            (
                "a folder named metrics.jsonl",
                lambda folder: (folder / "run/metrics.jsonl").mkdir(parents=True),
                "run/metrics.jsonl is not a file; choose another folder",
            ),
        ]
    ),
    # runs to go on with
    run_case(
        "other settings",
        lambda _: None,
        "generator.hyper_ingp.mlp_width is 5, was 4; optimizer.lr is 0.5, was 0.001. Set them back to go",
        *("optimizer.lr=0.5", "generator.hyper_ingp.mlp_width=5"),
    ),
    run_case("other prompts", file("prompts.txt", "a dragon"), "prompts.sha256 is "),
    run_case(
        "truncated checkpoints",
        every_checkpoint(truncated, "parameters.safetensors"),
        "damaged (does not have the contents that were written). No other checkpoint in run/checkpoints can",
    ),
    run_case(
        "checkpoints with a flipped bit",
        every_checkpoint(flipped, "optimizer.safetensors"),
        "damaged (does not have the contents that were written). No other checkpoint in run/checkpoints can",
    ),
    run_case(
        "incomplete checkpoints",
        every_checkpoint(without, "averaged.safetensors"),
        "damaged (No such file or directory). No other checkpoint in run/checkpoints can be used; choose",
    ),
    run_case(
        "foreign checkpoints",
        every_checkpoint(lambda name: file(name, '{"epoch": 3}'), "checkpoint.json"),
        "not a checkpoint of this package, or a damaged one (checkpoint.json cannot be read)",
    ),
    run_case(
        "newer checkpoints",
        every_checkpoint(
            lambda name: index(lambda data: data.update(format_version=9), name), "checkpoint.json"
        ),
        "has format_version 9; this version of the package reads 1",
    ),
    run_case(
        "checkpoints of another step than their names",
        every_checkpoint(lambda name: index(lambda data: data.update(step=1), name), "checkpoint.json"),
        "damaged (step, best or config in its checkpoint.json is not what was written). No other",
    ),
    run_case(
        "of another architecture, same settings",
        other_parameters,
        "run: the checkpoint of step 3 does not fit the generator of this configuration (",
    ),
    # full disks: file by file, the first that is larger than the limit
    Case(
        "train",
        "full disk: config.yaml",
        [],
        "config.yaml: File too large; the file system",
        limit=1500,
        may_leave=("run",),
    ),
    Case(
        "train",
        "full disk: first checkpoint",
        [],
        "step-00000003: cannot be written (",
        limit=8000,
        may_leave=("run", "run/config.yaml", "run/metrics.jsonl", "run/checkpoints"),
    ),
]

TABLE = INFER + TRAIN


# --- running a row -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What cases copy: an export, a prior, and a run of three steps."""
    folder = tmp_path_factory.mktemp("templates")
    make_templates(folder)
    return folder


def make_templates(folder: Path) -> None:
    tiny_pipeline().save_pretrained(folder / "checkpoint")
    write_random_prior(folder / "prior")
    with contextlib.chdir(folder):
        write_config(Path(), Path("prior"), training__max_steps=3, training__checkpoint_every=2)
        assert train.main(["--config", "config.yaml"]) == 0


def enter(case: Case, folder: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Brings folder and process into the case's state; returns the arguments. Undo with the monkeypatch."""
    monkeypatch.chdir(folder)
    if case.program == "train":
        write_config(Path(), Path("prior"))
        Path("prior").symlink_to(templates / "prior")
    for name in case.copies:
        shutil.copytree(templates / name, folder / name)
    if case.prepare is not None:
        case.prepare(folder)
    if case.patch is not None:
        case.patch(monkeypatch)
    full = Asset.turntable
    monkeypatch.setattr(Asset, "turntable", lambda self, num=4, size=64, **rest: full(self, 4, 64, **rest))
    return [*([] if case.is_bare else COMMON[case.program]), *case.arguments]


def run(case: Case, arguments: list[str]) -> int:
    program = {"infer": infer, "train": train}[case.program]
    with largest_file(case.limit):
        try:
            return program.main(arguments)
        except SystemExit as stop:  # argparse
            return int(stop.code or 0)


@contextlib.contextmanager
def largest_file(limit: int | None) -> Iterator[None]:
    """While it lasts the kernel refuses to write more than so many bytes of any file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if limit is None else limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: contents of files, None for folders."""
    found: dict[str, bytes | None] = {}
    for place, folders, files in os.walk(folder):
        found |= {os.path.relpath(f"{place}/{name}", folder): None for name in folders}
        found |= {
            os.path.relpath(p, folder): p.read_bytes() for p in (Path(place) / f for f in files) if p.exists()
        }
    return found


def rows(*, code: int | None = None) -> list[Any]:
    """The table's rows with this exit status, or all others that are not 0."""
    chosen = [case for case in TABLE if (case.code == 0) == (code == 0)]
    return [pytest.param(case, id=f"{case.program}: {case.name[:60]}") for case in chosen]


@pytest.mark.parametrize("case", rows())
def test_bad_input_is_one_clear_line_and_changes_nothing(
    case: Case,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    arguments = enter(case, tmp_path, templates, monkeypatch)
    before = tree(tmp_path)
    capfd.readouterr()
    status = run(case, arguments)
    printed = capfd.readouterr()
    after = tree(tmp_path)
    assert status == case.code, printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and printed.err.endswith("\n")
    assert case.message in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert {name: after.get(name) for name in before} == before
    assert after.keys() - before.keys() <= set(case.may_leave)


@pytest.mark.parametrize("case", rows(code=0))
def test_an_odd_prompt_is_made_in_the_folder_for_it_and_nowhere_else(
    case: Case,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    arguments = enter(case, tmp_path, templates, monkeypatch)
    before = tree(tmp_path)
    capfd.readouterr()
    assert run(case, arguments) == 0
    printed = capfd.readouterr()
    after = tree(tmp_path)
    assert printed.err == "" and case.message in printed.out
    assert {name: after.get(name) for name in before} == before
    stems = {name.removeprefix("new/").rsplit(".", 1)[0] for name in after.keys() - before.keys() - {"new"}}
    made = {f"new/{stem}.{kind}" for stem in stems for kind in ("json", "ply")}
    assert after.keys() - before.keys() == {"new", *made}
    assert all("/" not in stem and len(stem) <= 73 for stem in stems)
    told = [json.loads((after[f"new/{stem}.json"] or b"").decode())["prompt"] for stem in stems]
    assert sorted(told) == sorted({text.removeprefix("--prompt=") for text in case.arguments})


# --- what needs more than a row ----------------------------------------------------------------------------


def test_a_full_disk_in_the_second_checkpoint_leaves_the_first_to_go_on_from(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    enter(Case("train", "", [], ""), tmp_path, templates, monkeypatch)
    original, run_again = Trainer.step, ["--config", "config.yaml"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(self: Trainer, at: int, **arguments: Any) -> Any:
        if at == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
        return original(self, at, **arguments)

    with monkeypatch.context() as patch, largest_file(soft):
        patch.setattr(Trainer, "step", fill_the_disk)
        status = train.main(run_again)
    error = capfd.readouterr().err
    assert status == 2 and error.count("\n") == 1
    assert "run/checkpoints/step-00000006: cannot be written (" in error
    assert "earlier checkpoints are untouched: the file system or `ulimit -f` allows no larger file" in error
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"latest", "step-00000003"}
    assert train.main(run_again) == 0
    assert train.main([*run_again, "training.output=straight"]) == 0
    assert "going on from step 3" in capfd.readouterr().out
    for name in ("parameters", "averaged", "optimizer"):
        mine, other = (
            load_file(f"{folder}/checkpoints/step-00000006/{name}.safetensors")
            for folder in ("run", "straight")
        )
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def test_a_full_disk_at_the_export_leaves_the_checkpoint_and_the_same_command_exports(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    enter(Case("train", "", [], ""), tmp_path, templates, monkeypatch)
    largest = max(path.stat().st_size for path in (templates / "run/checkpoints").rglob("*"))
    with largest_file(largest):
        status = train.main(["--config", "config.yaml"])
    error = capfd.readouterr().err
    assert status == 2 and error.count("\n") == 1
    assert "run/generator: cannot be written (" in error and "run the same command again" in error
    assert not list(Path("run").glob(".*")) and not Path("run/generator").exists()
    assert train.main(["--config", "config.yaml"]) == 0
    assert Path("run/generator/model_index.json").is_file()


@pytest.mark.parametrize("name", ["tensorboard/events", "metrics.jsonl"])
def test_a_full_disk_under_a_runs_numbers_is_one_line_and_leaves_whole_ones(
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
):
    enter(Case("train", "", [], ""), tmp_path, templates, monkeypatch)
    original, size = Report.write, 0

    def fill_the_disk(self: Report, *arguments: Any) -> None:
        nonlocal size
        size = max(Path("run/tensorboard").iterdir()).stat().st_size
        with largest_file(40 if name == "metrics.jsonl" else size + 600):
            original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Report, "write", fill_the_disk)
        status = train.main(["--config", "config.yaml", "training.tensorboard=true"])
    error = capfd.readouterr().err
    assert status == 2 and error.count("\n") == 1 and error.startswith(f"error: run/{name}")
    assert ": File too large; the file system or `ulimit -f` allows" in error and error.count("\n") == 1
    assert all(json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines())
    assert [path.stat().st_size for path in Path("run/tensorboard").iterdir()] == [size]
    assert train.main(["--config", "config.yaml", "training.tensorboard=true"]) == 0


def test_too_little_memory_is_one_line_that_says_what_to_lower(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    enter(Case("train", "", [], ""), tmp_path, templates, monkeypatch)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    sizes = "generator.hyper_ingp={hyper_width: 1024, mlp_width: 512, mlp_depth: 2}"  # 2.2 GiB
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, hard))
    try:
        status = train.main(["--config", "config.yaml", sizes])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    error = capfd.readouterr().err
    assert status == 2 and error.count("\n") == 1
    assert re.match(r"error: out of memory( \(tried to allocate \d+ bytes\))?; raise training\.", error), (
        error
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["conv3d_net", "hyper_ingp", "triplane_transformer"])
def test_a_generator_beyond_memory_is_refused_before_it_is_made(
    name: str,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    enter(Case("train", "", [], ""), tmp_path, templates, monkeypatch)
    monkeypatch.setattr("scaledreamer.memory.memory_bytes", lambda: (2**10, 2**34))
    assert train.main(["--config", "config.yaml", f"generator={{name: {name}}}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "0.0 GiB of memory are free: lower its sizes" in error, error
    assert not Path("run").exists()


def test_a_port_in_use_is_one_line_that_says_how_to_take_another(templates: Path, tmp_path: Path):
    with contextlib.chdir(tmp_path):
        write_config(Path(), templates / "prior")
    command = [sys.executable, str(ROOT / "train.py"), "--config", "config.yaml"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        variables = os.environ | launcher | {"MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: process 0 of 1 cannot connect to 127.0.0.1:{port} (")
    assert "another one (deepspeed --master_port N)" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("local_rank", "num_lines"), [("0", 1), ("1", 0)])
def test_a_machine_that_cannot_resolve_the_address_says_so_once_and_at_once(
    templates: Path, tmp_path: Path, local_rank: str, num_lines: int
):
    with contextlib.chdir(tmp_path):
        write_config(Path(), templates / "prior")
    command = [sys.executable, str(ROOT / "train.py"), "--config", "config.yaml"]
    launcher = {"RANK": "3", "LOCAL_RANK": local_rank, "WORLD_SIZE": "4", "MASTER_PORT": "29500"}
    variables = os.environ | launcher | {"MASTER_ADDR": "nowhere.invalid", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 2 and result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == num_lines
    assert all(line.startswith("error: MASTER_ADDR: got 'nowhere.invalid', which this") for line in lines)
    assert not (tmp_path / "run").exists()


def test_letters_that_a_terminal_lacks_are_no_error(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = infer_case("", prompts("a frog 🐸"), "")
    arguments, terminal = enter(case, tmp_path, templates, monkeypatch), io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, encoding="ascii", write_through=True))
    assert run(case, arguments) == 0
    assert "prompt: 'a frog \\U0001f438'" in terminal.getvalue().decode("ascii")
