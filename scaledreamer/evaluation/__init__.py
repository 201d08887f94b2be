"""Scores of generated assets, measured against the true objects of their prompts.

`clip_scores` uses the evaluator CLIP, `ground_truth` and `alignment` compare with the true object, `janus`
detects second and missing faces, `report` combines them, and `validation` is the short form used in training.
"""
