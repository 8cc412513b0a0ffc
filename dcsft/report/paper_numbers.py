"""What the paper prints, for the cells whose task and model are the paper's; nothing for all others."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from dcsft.report.cells import Cell, finished


@cache
def _numbers() -> dict[str, list[dict[str, Any]]]:
    text = files("dcsft.report").joinpath("paper_numbers.yaml").read_text(encoding="utf-8")
    return OmegaConf.to_container(OmegaConf.create(text))


def in_paper(kind: str, cells: Sequence[Cell], **more: str) -> Mapping[str, Any] | None:
    """The paper's entry of a kind (difficulty, difference, speedup) for the task and model that all `cells` share.

    `more` must hold of the entry too, e.g. arm="Hard". None: the paper has it not, or the cells are of several.
    """
    shared = {(cell.results["task"], cell.results["model"]) for cell in finished(cells)}
    if len(shared) != 1:
        return None
    ((task, model),) = shared
    wanted = {"task": task, "model": model, **more}
    return next((entry for entry in _numbers()[kind] if wanted.items() <= entry.items()), None)
