"""Stores that begin with stages of another one."""

import shutil
from pathlib import Path


def begun(outputs: Path, whole: Path, *stages: str) -> Path:
    """`outputs`, with `stages` as they are in the store of `whole`."""
    for stage in stages:
        shutil.copytree(whole / "store" / stage, outputs / "store" / stage)
    return outputs
