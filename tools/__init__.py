"""What maintainers run, in folders; and the commands of `scaledreamer` as scripts (tools/evaluate.py)."""
