"""Boxes, each in the frame that its coordinates refer to; and in which frame a model speaks of them.

A box is scaled once, from the picture's own pixels to the frame that the model speaks, by `Box.to`.
"""

import math
import re
from dataclasses import dataclass

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2: the left, upper, right and lower edge."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_FOUR_NUMBERS = re.compile(r"\[\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*\]", re.ASCII | re.IGNORECASE)
_LONGEST_RATIO = 200  # of Qwen's processor, which refuses longer pictures


@dataclass(frozen=True)
class Frame:
    """Coordinates in which a picture is `width` wide and `height` high.

    One picture has several: its own pixels (640 x 480), those it is resized to (644 x 476), thousandths (1000 x 1000).
    """

    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """A region of a picture.

    Example:
        >>> Box(320, 120, 640, 480, Frame(640, 480)).to(Frame(644, 476)).whole()
        '[322, 119, 644, 476]'
    """

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame

    @property
    def corners(self) -> Corners:
        return (self.x1, self.y1, self.x2, self.y2)

    def to(self, frame: Frame) -> "Box":
        """The same region in the coordinates of `frame`."""
        width, height = self.frame.width, self.frame.height  # multiplied first: the right edge stays the right edge
        x1, x2 = (x * frame.width / width for x in (self.x1, self.x2))
        y1, y2 = (y * frame.height / height for y in (self.y1, self.y2))
        return Box(x1, y1, x2, y2, frame)

    def lies_within(self, slack: float) -> bool:
        """Whether it has an area and is inside its frame, but for `slack`."""
        inside = min(self.x1, self.y1) >= -slack and self.x2 <= self.frame.width + slack
        return inside and self.y2 <= self.frame.height + slack and has_area(self.corners)

    def clipped(self) -> "Box":
        """The part of it that is inside its frame."""
        x1, x2 = (min(max(x, 0), self.frame.width) for x in (self.x1, self.x2))
        y1, y2 = (min(max(y, 0), self.frame.height) for y in (self.y1, self.y2))
        return Box(x1, y1, x2, y2, self.frame)

    def exact(self) -> str:
        """As text, to hundredths."""
        return f"[{', '.join(str(round(value, 2)) for value in self.corners)}]"

    def whole(self) -> str:
        """As text, in whole numbers: fractions are cut off, as in the paper's release."""
        return f"[{', '.join(str(int(value)) for value in self.corners)}]"


def has_area(corners: Corners) -> bool:
    """Whether the edges are finite and in order."""
    x1, y1, x2, y2 = corners
    return all(map(math.isfinite, corners)) and x1 < x2 and y1 < y2


def iou(one: Corners, other: Corners) -> float:
    """Intersection over union, in [0, 1]; 0 where one of them has no area.

    Both in one frame, and it does not matter in which: scaling an axis leaves the ratio as it is. The paper's release
    gives 0 to overlaps of one pixel or less in a direction; this is the plain ratio, equal in all other cases.
    """
    if not (has_area(one) and has_area(other)):
        return 0.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    union = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)) - common
    return common / union if union > 0 else 0.0  # areas may underflow


def first_corners(text: str) -> Corners | None:
    """The first list of four numbers in square brackets, alone or within JSON, whatever the numbers are.

    Example:
        >>> first_corners('The cat: {"bbox_2d": [10, 20, 30.5, 40]}')
        (10.0, 20.0, 30.5, 40.0)
    """
    found = _FOUR_NUMBERS.search(text)
    if found is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in found.groups())
    return (x1, y1, x2, y2)


def resized(picture: Frame, multiple: int, min_pixels: int, max_pixels: int) -> Frame:
    """The size that Qwen's processor gives a picture: sides are multiples of `multiple`, the area is bounded.

    The same arithmetic as transformers' `smart_resize`, which cannot be imported without torch; a test compares them.

    Raises:
        ValueError: the picture is too long for that processor.
    """
    width, height = picture.width, picture.height
    if max(width, height) > _LONGEST_RATIO * min(width, height):
        raise ValueError(f"a picture must be at most {_LONGEST_RATIO} times as long as wide, got {width}x{height}")
    across, down = round(width / multiple), round(height / multiple)
    if across * down * multiple**2 > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        across, down = (max(1, math.floor(side / shrink / multiple)) for side in (width, height))
    elif across * down * multiple**2 < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        across, down = (math.ceil(side * grow / multiple) for side in (width, height))
    return Frame(across * multiple, down * multiple)


@dataclass(frozen=True)
class FrameRule:
    """In which frame a model speaks of a picture.

    Example:
        FrameRule("resized", multiple=28, min_pixels=3136, max_pixels=802816)(Frame(640, 480)) == Frame(644, 476)
    """

    frame: str
    """resized: the pixels that the processor resizes the picture to; normalised: thousandths of its sides."""
    multiple: int | None
    """The processor rounds sides to multiples of it: a patch times a merge, in pixels."""
    min_pixels: int | None
    max_pixels: int | None
    """These three are needed of resized frames alone."""

    def __post_init__(self) -> None:
        if self.frame not in ("resized", "normalised"):
            raise ValueError(f"model.boxes.frame must be resized or normalised, got {self.frame!r}; see conf/model/")
        limits = {"boxes.multiple": self.multiple, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        for name, value in limits.items():
            if self.frame == "resized" and (value is None or value < 1):
                raise ValueError(f"model.{name} must be a number of pixels, got {value}; resized boxes depend on it")

    def __call__(self, picture: Frame) -> Frame:
        """The frame for a picture whose own pixels are `picture`."""
        if self.frame == "normalised":
            return Frame(1000, 1000)
        assert self.multiple is not None
        assert self.min_pixels is not None
        assert self.max_pixels is not None
        return resized(picture, self.multiple, self.min_pixels, self.max_pixels)
