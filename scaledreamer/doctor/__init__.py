"""Checks before anything starts: this machine, and a configuration's files, memory and time."""
