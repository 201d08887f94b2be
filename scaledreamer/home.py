"""The user's home folder in paths: `~` is never treated as a folder of that name. Needs no torch."""

from __future__ import annotations

import os


def expand_home(path: str | os.PathLike[str], key: str = "") -> str:
    """Replaces a leading `~` by the home folder; other paths, such as `~nobody`, are returned unchanged.

    Args:
        key: the setting, option or variable that the path comes from, for the message.

    Raises: ValueError if there is no home folder: HOME is not set, and the user id is unknown to the system,
        as in a container that runs under an arbitrary id.
    """
    text = os.fspath(path)
    try:
        expanded = os.path.expanduser(text)
    except ValueError:  # ~ before something that is no user name: the path is refused where it is used
        return text
    if is_home(text) and (expanded == text or os.environ.get("HOME") == ""):
        what, which = (f"{key}: ", f"{key} a path") if key else ("", "a path")
        raise ValueError(
            f"{what}got {text!r}, and there is no home folder: HOME is not set, and the list of users names "
            f"none for uid {os.getuid()}; set HOME, or give {which} without ~."
        )
    return expanded


def is_home(path: str) -> bool:
    """Whether a path begins with the user's own home folder, written as `~`."""
    return path == "~" or path.startswith(f"~{os.sep}")
