"""Grounding in the icon world: where in the scene is what a phrase names?"""

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from dcsft.boxes import Box, Frame, FrameRule, first_corners
from dcsft.records import Example
from dcsft.rewards.reward import Reward
from dcsft.tasks.phrases import FORMS, draw_phrase
from dcsft.tasks.scene_task import Asked, SceneTask
from dcsft.tasks.scenes import SCENE_PX, Icon, Scene

_OWN = Frame(SCENE_PX, SCENE_PX)


class IconScenes(SceneTask):
    """Give the box of the icon that a phrase names; it is the paper's grounding study in miniature.

    The target is the icon's exact box, in the frame that the model speaks; SFT teaches it in whole numbers. A wrong
    label is the box of another icon.

    Args:
        question: `{phrase}` stands for the phrase.
        boxes: how the model speaks of boxes: frame and multiple. None: it does not.
        min_pixels, max_pixels: what the processor resizes pictures to.
        The others: see SceneTask; the kinds of questions are the forms of phrases.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        seed: int,
        test_seed: int,
        class_seed: int,
        num_id_classes: int,
        num_train: int,
        num_cold_start: int,
        num_test: int,
        label_noise: float,
        style: Mapping[str, Any],
        splits: Mapping[str, Mapping[str, Any]],
        boxes: Mapping[str, Any] | None,
        min_pixels: int | None,
        max_pixels: int | None,
    ) -> None:
        if "{phrase}" not in question:
            raise ValueError(f"task.question must contain {{phrase}}, got {question!r}; see conf/task/icon_scenes.yaml")
        if boxes is None:
            raise ValueError(
                "model.boxes must say in which frame the model speaks of boxes, got None; take a model that does, "
                "or set it as in conf/model/tiny_scenes.yaml"
            )
        frame = FrameRule(boxes["frame"], boxes["multiple"], min_pixels, max_pixels)(_OWN)
        sizes = (num_train, num_cold_start, num_test)
        seeds = (seed, test_seed, class_seed)
        super().__init__(reward, question, *seeds, num_id_classes, *sizes, label_noise, style, splits, FORMS, frame)

    def ask(self, rng: Generator, scene: Scene, kind: str) -> Asked | None:
        found = draw_phrase(rng, scene, kind)
        if found is None:
            return None
        phrase, icon = found
        others = [other for other in scene if other != icon]
        wrong = others[int(rng.integers(len(others)))]
        return Asked(kind, self.question.replace("{phrase}", phrase.text), self._box(icon), self._box(wrong))

    def _box(self, icon: Icon) -> str:
        assert self.frame is not None
        return Box(*icon.corners, _OWN).to(self.frame).exact()

    def target(self, example: Example) -> str:
        """The box in whole numbers."""
        corners = first_corners(example.target)
        assert corners is not None
        assert example.frame is not None
        return Box(*corners, example.frame).whole()
