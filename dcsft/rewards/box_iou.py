"""Overlap of boxes: the paper's rule for grounding."""

from collections.abc import Sequence

from dcsft.boxes import first_corners, has_area, iou
from dcsft.records import Score
from dcsft.rewards.reward import Reward


class BoxIoU(Reward):
    """Right when the first box in the text overlaps the true one by at least `threshold` (DC-SFT, section 4.2).

    A box is a list of four numbers in square brackets, alone or in JSON, in the frame of the target. One that is
    reversed, flat or not finite is wrong, whatever follows it.

    Example:
        >>> BoxIoU(0.5)('{"bbox_2d": [0, 0, 10, 5]}', "[0, 0, 10, 10]").parts
        {'iou': 0.5}
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"reward.threshold must be in (0, 1], got {threshold}; the paper has 0.5")
        self.threshold = threshold

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        truth, found = first_corners(target), first_corners(text)
        if truth is None or not has_area(truth):
            raise ValueError(f"a target must be a box as [x1, y1, x2, y2], got {target!r}; reward=box_iou needs one")
        if found is None:
            return Score(correct=False, reward=0.0, parts={"iou": 0.0})
        overlap = iou(found, truth)
        correct = overlap >= self.threshold
        answer = f"[{', '.join(f'{value:g}' for value in found)}]"
        return Score(correct=correct, reward=float(correct), answer=answer, parts={"iou": overlap})
