"""Command lines: argument parsing that needs no torch, and the programs behind the thin scripts."""
