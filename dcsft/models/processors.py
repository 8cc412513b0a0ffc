"""Load the processor of a model, also on machines without torchvision.

transformers 5 ships video processors for torchvision alone, and every Qwen-like processor insists on having one.
Where torchvision is missing we give it a stand-in that carries the video settings through load and save and refuses
videos; pictures and text do not notice. Where torchvision is installed nothing is changed.
"""

from pathlib import Path

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto import video_processing_auto
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from dcsft.models.families import Family


class SettingsOnlyVideoProcessor(VideoProcessorMixin):
    """Holds a video processor's settings; cannot process a video."""

    def __init__(self, video_processor_type: str | None = None, **settings: object) -> None:
        super().__init__(**settings)
        for name, value in settings.items():
            setattr(self, name, value)
        self.stands_for = video_processor_type

    def to_dict(self) -> dict[str, object]:
        """Names the real video processor, so that a folder saved here also loads where torchvision is installed."""
        settings = super().to_dict()
        kind = settings.pop("stands_for")
        return settings | ({"video_processor_type": kind} if kind else {})

    def preprocess(self, *args: object, **kwargs: object) -> None:
        raise ImportError("a video needs torchvision, which is not installed; install torchvision or use pictures")


class _AutoVideoProcessor:
    """Takes the place of transformers' AutoVideoProcessor."""

    @classmethod
    def from_pretrained(cls, path: str, **kwargs: object) -> SettingsOnlyVideoProcessor:
        try:
            settings, _ = VideoProcessorMixin.get_video_processor_dict(path, **kwargs)
        except OSError:  # the folder has no video settings
            settings = {}
        kind = settings.pop("video_processor_type", None)
        if kind is None:  # older folders keep one file for pictures and videos
            kind = str(settings.get("image_processor_type", "")).removesuffix("Fast")
            kind = kind.replace("ImageProcessor", "VideoProcessor") or None
        for name in ("image_processor_type", "processor_class"):
            settings.pop(name, None)
        return SettingsOnlyVideoProcessor(**settings, **({"video_processor_type": kind} if kind else {}))


def allow_missing_torchvision() -> None:
    """Install the stand-in; does nothing where torchvision is there. Safe to call again."""
    if is_torchvision_available() or video_processing_auto.AutoVideoProcessor is _AutoVideoProcessor:
        return
    import transformers.processing_utils

    video_processing_auto.AutoVideoProcessor = _AutoVideoProcessor
    # The lazy module does not export this name without torchvision, and the class check looks it up there.
    transformers.processing_utils.transformers_module.VideoProcessorMixin = VideoProcessorMixin


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor saved at `path`, or on the Hub."""
    allow_missing_torchvision()
    return AutoProcessor.from_pretrained(path, trust_remote_code=False)


def limit_pictures(
    processor: ProcessorMixin, family: Family, min_pixels: int | None, max_pixels: int | None, max_tiles: int | None
) -> None:
    """Bound the size at which pictures are seen; None leaves the processor's own bound.

    Raises:
        ValueError: the family has no such bound.
    """
    pictures = processor.image_processor
    if not family.pixel_limits and (min_pixels, max_pixels) != (None, None):
        raise ValueError(
            f"model.min_pixels and model.max_pixels must be null for a model that cuts pictures into tiles or squares, "
            f"got {min_pixels} and {max_pixels}; "
            + ("set model.max_tiles" if family.tile_limit else "its size is fixed")
        )
    if family.tile_limit is None and max_tiles is not None:
        raise ValueError(f"model.max_tiles must be null, got {max_tiles}; this model has no choice of tiles")
    # Set on the object: as arguments of from_pretrained these are silently ignored by some checkpoints' settings.
    if family.pixel_limits:
        size = dict(pictures.size)
        if min_pixels is not None:
            size["shortest_edge"] = min_pixels
        if max_pixels is not None:
            size["longest_edge"] = max_pixels
        pictures.size = size
    elif max_tiles is not None:
        setattr(pictures, family.tile_limit, max_tiles)
