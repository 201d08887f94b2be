"""Functions of space: hash grids, planes, volumes, signed distances. Independent of prompts, scenes and
rays."""
