"""Functions of space: hash grids, signed distances. Knows nothing of prompts, scenes or rays."""
