"""How a model sees pictures: fixed once for labelling, training and evaluation, and kept beside all weights we save.

The same photo at another size is another input: weights tuned at one are not measured at another by accident.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from dcsft.artefacts import write_json
from dcsft.models.families import Family

FILE = "dcsft.json"


@dataclass(frozen=True)
class Contract:
    """What weights were trained with."""

    base: str
    """The model that all training began with: its Hub id, or the name of its folder."""
    model_type: str
    pictures: dict[str, Any]
    """What decides how many tokens a picture becomes: pixel limits, or tiles and their size."""

    def write(self, folder: Path) -> None:
        """Put it beside the weights."""
        write_json(folder / FILE, asdict(self))

    def refuse_other(self, folder: Path, family: Family) -> None:
        """Nothing, if what is in `folder` was trained under the same contract, or does not say.

        Raises:
            ValueError: under another one.
        """
        theirs = read(folder)
        if theirs is None or (theirs.model_type, theirs.pictures) == (self.model_type, self.pictures):
            return
        if theirs.model_type != self.model_type:
            raise ValueError(
                f"an adapter must be put on the kind of model it was trained on, {theirs.model_type}, "
                f"got {self.model_type}; set model.path to {theirs.base} or what was made of it"
            )
        settings = {name: value for name, value in theirs.pictures.items() if name in ("min_pixels", "max_pixels")}
        if family.tile_limit is not None:
            settings["max_tiles"] = theirs.pictures[family.tile_limit]
        advice = " ".join(f"model.{name}={value}" for name, value in settings.items())
        raise ValueError(
            f"pictures must be seen as these weights were trained, {_said(theirs.pictures)}, "
            f"got {_said(self.pictures)} for {folder}; " + (f"set {advice}" if advice else "use their own processor")
        )


def read(folder: Path) -> Contract | None:
    """The contract of the weights in `folder`; None for weights that are not ours."""
    path = folder / FILE
    return Contract(**json.loads(path.read_text())) if path.exists() else None


def contract_of(base: str, model_type: str, family: Family, processor: ProcessorMixin) -> Contract:
    """The contract that `processor` keeps."""
    settings = json.loads(processor.image_processor.to_json_string())
    pictures = {name: settings.get(name) for name in family.picture_settings}
    if family.pixel_limits:
        pictures = {"min_pixels": pictures["size"]["shortest_edge"], "max_pixels": pictures["size"]["longest_edge"]}
    return Contract(base, model_type, pictures)


def _said(pictures: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in pictures.items())
