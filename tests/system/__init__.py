"""Whole processes over real ports: the main job, the operator, submission, the commands."""
