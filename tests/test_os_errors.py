"""What users are told about errors of the operating system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from scaledreamer.cli import program
from scaledreamer.os_errors import advice, one_line, reason


def test_each_error_has_its_own_advice() -> None:
    said = {
        number: advice(OSError(number, os.strerror(number)))
        for number in (
            *(errno.EPIPE, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG),
            *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP, errno.EIO),
        )
    }
    assert len(set(said.values())) == len(said)
    room = {number for number, text in said.items() if "room" in text}
    assert room == {errno.ENOSPC}, "only a full disk is helped by making room"


def test_a_full_disk_under_safetensors_is_known_as_one() -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert reason(error) == "No space left on device" and "make room" in advice(error)
    assert advice(ValueError("other"), "else") == "else" and reason(ValueError()) == "ValueError"


def test_an_error_is_one_line_that_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / ("x" * 300)).write_text("")
    assert one_line(caught.value) == f"{tmp_path}/{'x' * 300}: File name too long; choose a shorter name"
    assert one_line(OSError("a library's\nown words")) == "a library's own words"
    assert one_line(ValueError("of ours")) == "of ours"


def test_a_program_says_what_the_system_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @program
    def main() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/x")

    assert main() == 2
    assert capsys.readouterr().err == (
        "error: /mnt/x: Read-only file system; that disk is mounted read-only; choose another place\n"
    )


def test_an_interrupted_program_has_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    @program
    def main() -> int:
        raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"
