"""Tensors to completions: the engines, and completions to scored rollouts."""
