"""Makes, checks and describes folders of prompt shards: webdataset tars with an index.

    scaledreamer make-shards make open_100k --out shards/open_100k
    scaledreamer make-shards make my_prompts.txt --out shards/mine --shard-size 20000
    scaledreamer make-shards make open_100k --out shards/embedded --shard-size 1000 --encoder tinyworld
    scaledreamer make-shards verify shards/open_100k

Train on them with `prompts.shards=FOLDER` (or the URL of a copy). An interrupted `make` resumes when it is
run again. With `--encoder` the shards also store text embeddings in fp16, for runs whose conditioner is that
encoder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.cli import Parser, fail, program

if TYPE_CHECKING:
    from scaledreamer.prompts.shard_format import Encoder
    from scaledreamer.prompts.shard_writer import Encode

SHARD_SIZE = 10_000
ENCODED_AT_ONCE = 64


def load_corpus(source: str, section: str, *, keep_order: bool) -> Iterable[str]:
    """Prompts of one of the package's corpora or of a file, shuffled unless `keep_order`."""
    from scaledreamer.prompts.corpus import NAMES, corpus_file, read_prompts, tinyworld_prompts
    from scaledreamer.prompts.prompt_file import FilePrompts
    from scaledreamer.prompts.shard_writer import shuffled

    if source == "tinyworld":
        prompts = list(dict.fromkeys(tinyworld_prompts()))
    elif source in NAMES:
        prompts = read_prompts(corpus_file(source), section)
    elif Path(source).exists():
        prompts = FilePrompts(source, section) if keep_order else read_prompts(source, section)
    else:
        accepted = ", ".join(("tinyworld", *NAMES))
        raise ValueError(f"CORPUS: got {source!r}; accepted are a file of prompts, or one of {accepted}.")
    return prompts if keep_order else shuffled(prompts)


def load_encoder(name: str, device: str) -> tuple[Encode, Encoder]:
    """A text encoder by name, and its identification."""
    import torch

    from scaledreamer.prompts.conditioner import TextConditioner
    from scaledreamer.prompts.shard_format import Encoder
    from scaledreamer.weights.places import TINY_PRIOR

    conditioner = TextConditioner.from_pretrained(TINY_PRIOR if name == "tinyworld" else name).to(device)

    def encode(prompts: list[str]) -> dict[str, Any]:
        firsts = range(0, len(prompts), ENCODED_AT_ONCE)
        parts = [conditioner(prompts[first : first + ENCODED_AT_ONCE]) for first in firsts]
        return {
            key: torch.cat([getattr(part, key) for part in parts]).cpu().numpy() for key in parts[0]._fields
        }

    return encode, Encoder(name, conditioner.fingerprint())


def make(args: argparse.Namespace) -> None:
    from scaledreamer.prompts.shard_writer import build_shards

    prompts = load_corpus(args.corpus, args.section, keep_order=args.keep_order)
    encode, encoder = load_encoder(args.encoder, args.device) if args.encoder else (None, None)
    start = time.monotonic()

    def tell(shard: int, num_prompts: int) -> None:
        rate = num_prompts / (time.monotonic() - start)
        print(f"shard {shard}: {num_prompts:,} prompts so far, {rate:,.0f} a second", flush=True)

    manifest = build_shards(
        prompts,
        args.out,
        shard_size=args.shard_size,
        corpus=args.corpus,
        encode=encode,
        encoder=encoder,
        on_shard=tell,
    )
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(
        f"{args.out}: {manifest.num_prompts:,} prompts in {manifest.num_shards} shard(s), {size / 1e6:.1f} MB"
    )


def verify(args: argparse.Namespace) -> None:
    from scaledreamer.prompts.remote import shard_files
    from scaledreamer.prompts.shards import verify_shards

    problems = list(verify_shards(shard_files(args.folder, cache=args.cache)))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{args.folder}: whole")


@program
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="scaledreamer make-shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make", help="write shards of a corpus")
    command.add_argument("corpus", help="a corpus of the package, or a prompt file (.txt, .json, .gz)")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--section", default="train", help="which list of a JSON file")
    command.add_argument("--shard-size", type=int, default=SHARD_SIZE, help="prompts per shard")
    command.add_argument(
        "--keep-order",
        action="store_true",
        help="do not shuffle; text is then streamed line by line",
    )
    command.add_argument(
        "--encoder", help="also store embeddings of this text encoder: tinyworld, a folder or a hub id"
    )
    command.add_argument("--device", default="cpu", help="of the encoder")
    command = commands.add_parser("verify", help="read a folder completely; fails if anything is wrong")
    command.add_argument("folder", help="a folder, or a URL as in prompts.shards")
    command.add_argument("--cache", default="~/.cache/scaledreamer", help="for copies of remote shards")
    args = parser.parse_args(argv)
    try:
        if args.command == "make" and args.shard_size < 1:
            raise ValueError(f"--shard-size: got {args.shard_size}; accepted are whole numbers from 1.")
        {"make": make, "verify": verify}[args.command](args)
    except ValueError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
