"""`scaledreamer COMMAND [...]`: finds the command and passes it the other arguments. Needs no torch."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from scaledreamer import __version__
from scaledreamer.cli import Parser, program

COMMANDS = {
    "train": "train a generator, or resume an interrupted run",
    "infer": "make textured 3D assets of prompts",
    "evaluate": "score a generator, with ground truth and shuffled prompts for comparison",
    "demo": "train on the embedded prior, make assets, score them: one page, in minutes",
    "doctor": "report what will work on this machine and with a configuration",
    "import-prompts": "make a corpus from other people's prompts",
    "make-shards": "make and check folders of prompt shards",
    "convert-official": "convert ScaleDreamer's released checkpoints to generators of this package",
}
"""Every command, with what it does."""


def make_parser() -> Parser:
    """The options before a command."""
    lines = "\n".join(f"  {name:18}{meaning}" for name, meaning in COMMANDS.items())
    parser = Parser(
        prog="scaledreamer",
        usage="scaledreamer COMMAND [...]",
        description="Text-to-3D generators trained by score distillation: prompts in, 3D assets out.",
        epilog=f"commands:\n{lines}\n\n`scaledreamer COMMAND --help` lists the options of a command.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scaledreamer {__version__}")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    of_launcher = [word for word in words[:1] if re.match(r"--local[-_]rank=", word)]  # of deepspeed --module
    words = words[len(of_launcher) :]
    if not words or words[0].startswith("-"):
        parser = make_parser()
        parser.parse_args(words)
        parser.error(f"no command was given; accepted are {', '.join(COMMANDS)}")
    name, *rest = words
    return run(name, [*of_launcher, *rest])


def run(name: str, argv: Sequence[str]) -> int:
    """Imports a command and runs it with these arguments; returns its exit status."""
    match name:
        case "train":
            from scaledreamer.cli.train import main
        case "infer":
            from scaledreamer.cli.infer import main
        case "evaluate":
            from scaledreamer.cli.evaluate import main
        case "demo":
            from scaledreamer.cli.demo import main
        case "doctor":
            from scaledreamer.cli.doctor import main
        case "import-prompts":
            from scaledreamer.cli.import_prompts import main
        case "make-shards":
            from scaledreamer.cli.make_shards import main
        case "convert-official":
            from scaledreamer.cli.convert_official import main
        case _:
            near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1, cutoff=0.5)
            guess = f"did you mean {near[0]}? Accepted" if near else "accepted"
            make_parser().error(f"{name or repr(name)}: no such command; {guess} are {', '.join(COMMANDS)}")
    return main(argv)


if __name__ == "__main__":
    sys.exit(main())
