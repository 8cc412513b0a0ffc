"""Multiple choice in the icon world: how many icons are there of a kind, and which is the largest?"""

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from dcsft.rewards.reward import Reward
from dcsft.tasks.quizzes import KINDS, draw_quiz
from dcsft.tasks.scene_task import Asked, SceneTask
from dcsft.tasks.scenes import Scene


class IconChoice(SceneTask):
    """Answer with the letter of the right option; it is the paper's reasoning study in miniature, without the thoughts.

    Options stand in random order. A wrong label is the letter of another option.

    Args:
        question: `{question}` stands for what is asked; the options follow, a line each.
        The others: see SceneTask.
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
    ) -> None:
        if "{question}" not in question:
            raise ValueError(
                f"task.question must contain {{question}}, got {question!r}; see conf/task/icon_choice.yaml"
            )
        sizes = (num_train, num_cold_start, num_test)
        seeds = (seed, test_seed, class_seed)
        super().__init__(reward, question, *seeds, num_id_classes, *sizes, label_noise, style, splits, KINDS, None)

    def ask(self, rng: Generator, scene: Scene, kind: str) -> Asked | None:
        quiz = draw_quiz(rng, scene, kind)
        if quiz is None:
            return None
        others = [letter for letter in quiz.letters if letter != quiz.letter]
        wrong = others[int(rng.integers(len(others)))]
        return Asked(kind, quiz.text(self.question), quiz.letter, wrong, quiz.options)
