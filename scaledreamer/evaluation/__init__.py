"""How good generated assets are, measured against the objects that their prompts mean.

`clip_scores` asks the evaluator CLIP, `ground_truth` and `alignment` compare with the true object, `janus`
looks for second faces, `report` puts them together and `validation` is the short form that training uses.
"""
