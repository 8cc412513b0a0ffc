"""Picture features on disk, computed once while the vision tower is frozen, shared by every stage, arm and epoch.

One SQLite file for each combination of vision weights and picture preprocessing. A feature is stored as the raw bytes
of its tensor and comes back bit for bit. When the file has reached its limit, further pictures are simply computed.
"""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dcsft.models.render import PictureFeatures
from dcsft.models.vision import encode_pictures
from dcsft.models.vlm import VLM
from dcsft.records import Picture

log = logging.getLogger(__name__)

_CHUNK = 64
"""Pictures encoded, and written, together."""


class FeatureCache:
    """A `FeatureSource`: looks features up by picture id, computes and keeps those it lacks.

    Args:
        vlm: a model whose vision tower and merger are frozen.
        folder: where the files are.
        limit_gb: of one file.
    """

    def __init__(self, vlm: VLM, folder: Path, limit_gb: float) -> None:
        self.vlm = vlm
        self.limit_bytes = int(limit_gb * 1e9)
        self._full = self.limit_bytes == 0
        self._dtype = vlm.visual.dtype
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{vlm.vision_digest()}-{str(self._dtype).removeprefix('torch.')}.sqlite"
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            self._start_over(error)

    def _start_over(self, error: sqlite3.DatabaseError) -> None:
        """Replace a damaged file by an empty one; errors that are no damage, such as a locked file, are raised."""
        if isinstance(error, sqlite3.OperationalError):
            raise error
        log.info("%s: %s; removed, the features are computed again", self.path, error)
        self.path.unlink(missing_ok=True)
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=60)
        database.execute("PRAGMA synchronous = OFF")  # a cache: after a power failure it is made again
        database.execute(
            "CREATE TABLE IF NOT EXISTS features (picture TEXT PRIMARY KEY, t INT, h INT, w INT, width INT, data BLOB)"
        )
        database.commit()
        return database

    def __call__(self, pictures: Sequence[Picture]) -> list[PictureFeatures]:
        """Features of `pictures`, in order."""
        try:
            known = self._look_up(pictures)
        except sqlite3.DatabaseError as error:  # damage behind the header is met only now
            self._start_over(error)
            known = {}
        missing = list({picture.id: picture for picture in pictures if picture.id not in known}.values())
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            computed = dict(zip((picture.id for picture in chunk), self._compute(chunk), strict=True))
            self._keep(computed)
            known |= computed
        return [known[picture.id] for picture in pictures]

    def _look_up(self, pictures: Sequence[Picture]) -> dict[str, PictureFeatures]:
        known: dict[str, PictureFeatures] = {}
        ids = [picture.id for picture in pictures]
        for start in range(0, len(ids), 500):  # SQLite bounds the number of parameters
            some = ids[start : start + 500]
            marks = ",".join("?" * len(some))
            for name, t, h, w, width, data in self._database.execute(
                f"SELECT picture, t, h, w, width, data FROM features WHERE picture IN ({marks})", some
            ):
                tensor = torch.frombuffer(bytearray(data), dtype=self._dtype).view(-1, width)
                known[name] = tensor, torch.tensor([t, h, w])
        return known

    @torch.no_grad()
    def _compute(self, pictures: Sequence[Picture]) -> list[PictureFeatures]:
        pixels = self.vlm.processor.image_processor(
            images=[picture.open() for picture in pictures], return_tensors="pt"
        )
        device = self.vlm.device
        grids = pixels["image_grid_thw"]
        self.vlm.meter.count_patches(int(grids.prod(-1).sum()), self.vlm.visual)
        features = encode_pictures(self.vlm.visual, pixels["pixel_values"].to(device), grids.to(device))
        return [(feature.to("cpu", self._dtype), grid) for feature, grid in zip(features, grids, strict=True)]

    def _keep(self, computed: dict[str, PictureFeatures]) -> None:
        if self._full:
            return
        if self.path.stat().st_size >= self.limit_bytes:
            self._full = True
            log.info("%s has reached its limit of %.1f GB; further pictures are encoded each time", self.path.name,
                     self.limit_bytes / 1e9)  # fmt: skip
            return
        rows = [(name, *grid.tolist(), tensor.shape[1], _bytes(tensor)) for name, (tensor, grid) in computed.items()]
        try:
            with self._database:  # one transaction: a chunk is there whole or not at all
                self._database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:  # no room on the disk, or damaged: we can do without
            self._full = True
            log.info("%s: %s; further pictures are encoded each time", self.path.name, error)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
