"""Difficulty-curated post-training of vision-language models (DC-SFT, arXiv 2602.10815)."""

__version__ = "0.1.0"
