"""The processes of a run, and the engine that trains on them."""
