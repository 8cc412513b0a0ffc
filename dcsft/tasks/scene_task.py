"""What the tasks on scenes share: their splits, and how an example's scene and question are drawn."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from dcsft.boxes import Frame
from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.scenes import MOST_ICONS, RENDERER_VERSION, USES, Scene, SceneStyle, draw_layout, draw_scene, style_of
from dcsft.tasks.task import Task

_TRAINING = ("cold_start", "train")


@dataclass(frozen=True)
class Asked:
    """A question on a scene and its answer."""

    kind: str
    question: str
    target: str
    wrong: str
    """The target of an example whose label is wrong."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Opener:
    """Draws one picture when called; a class and not a closure, so that it travels to worker processes."""

    scene: Scene
    address: tuple[object, ...]
    style: SceneStyle

    def __call__(self) -> Image.Image:
        return Image.fromarray(draw_scene(self.scene, stream(*self.address), self.style))


@dataclass(frozen=True)
class _Split:
    """What the examples of a split are made of."""

    novel: bool
    num_icons: tuple[int, int]
    questions: dict[str, float]


def _split_of(option: str, node: Mapping[str, Any], kinds: Sequence[str]) -> _Split:
    names = {field.name for field in fields(_Split)}
    if set(node) != names:
        raise ValueError(f"{option} must have {', '.join(sorted(names))}, got {', '.join(sorted(node))}; see conf/task/")
    least, most = node["num_icons"]
    if not 1 <= least <= most <= MOST_ICONS:
        raise ValueError(f"{option}.num_icons must be [least, most] of 1 to {MOST_ICONS}, got {[least, most]}")
    shares = dict(node["questions"])
    if not (set(shares) <= set(kinds) and min(shares.values(), default=-1) >= 0 and sum(shares.values()) > 0):
        raise ValueError(f"{option}.questions must be shares of {', '.join(kinds)}, got {shares}; leave the others out")
    return _Split(node["novel"], (least, most), {kind: share / sum(shares.values()) for kind, share in shares.items()})


class SceneTask(Task):
    """Questions on scenes. Splits: cold_start, train, id (classes that training shows), and the OOD sets.

    Args:
        seed: draws the training scenes, their questions and the label noise.
        test_seed: the same of the tests; constant over runs, so that arms and seeds meet the same questions.
        class_seed: draws which classes training shows.
        num_id_classes: classes that training shows; the others are novel.
        num_train, num_cold_start, num_test: examples in "train", in "cold_start" and in each test set.
        label_noise: share of training examples (cold start included) with a wrong answer.
        style: how hard scenes are to see, as SceneStyle says.
        splits: of "id", which training follows, and of each OOD set: whether its classes are `novel`, `num_icons`
            (least, most) of a scene, and `questions`, the shares of their kinds.
        kinds: which questions there are.
        frame: the coordinates of the boxes in targets, where they are boxes.
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
        kinds: Sequence[str],
        frame: Frame | None,
    ) -> None:
        super().__init__(reward, question)
        if not 1 <= num_id_classes < len(USES):
            raise ValueError(
                f"task.num_id_classes must be 1 to {len(USES) - 1}, got {num_id_classes}; the others are novel"
            )
        if not 0 <= label_noise <= 1:
            raise ValueError(f"task.label_noise must be a share in [0, 1], got {label_noise}; give a probability")
        if "id" not in splits:
            raise ValueError(f"task.splits must have id, got {', '.join(splits) or 'none'}; training follows it")
        self.style = style_of("task.style", style)
        self.seed, self.test_seed, self.label_noise = seed, test_seed, label_noise
        self.frame = frame
        self._splits = {name: _split_of(f"task.splits.{name}", node, kinds) for name, node in splits.items()}
        self._sizes = {"cold_start": num_cold_start, "train": num_train} | dict.fromkeys(splits, num_test)
        self._drawn: dict[str, list[Example]] = {}
        order = np.random.default_rng(class_seed).permutation(sorted(USES)).tolist()
        self.id_classes, self.novel_classes = tuple(order[:num_id_classes]), tuple(order[num_id_classes:])

    @abstractmethod
    def ask(self, rng: Generator, scene: Scene, kind: str) -> Asked | None:
        """A question of a kind; None where the scene does not allow it."""

    @property
    def ood(self) -> tuple[str, ...]:
        return tuple(name for name in self._splits if name != "id")

    def _seed(self, split: str) -> int:
        return self.seed if split in _TRAINING else self.test_seed

    def _split(self, split: str) -> _Split:
        return self._splits["id" if split in _TRAINING else split]

    def identity(self, split: str) -> dict[str, object]:
        return {
            "renderer": RENDERER_VERSION,
            "split": split,
            "size": self._sizes[split],
            "seed": self._seed(split),
            "label_noise": self.label_noise if split in _TRAINING else None,
            "style": str(self.style),
            "settings": str(self._split(split)),
            "id_classes": list(self.id_classes),
            "frame": str(self.frame),
        }

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self._sizes:
            raise ValueError(f"split must be one of {', '.join(self._sizes)}, got {split!r}; see task.splits")
        if split not in self._drawn:
            self._drawn[split] = [self._example(split, index) for index in range(self._sizes[split])]
        return self._drawn[split]

    def scene(self, split: str, index: int) -> tuple[Scene, Asked]:
        """The layout of an example and what is asked; scenes are drawn until one allows the kind of question."""
        settings = self._split(split)
        names = self.novel_classes if settings.novel else self.id_classes
        rng = stream("scenes", "example", self._seed(split), split, index)
        kind = list(settings.questions)[int(rng.choice(len(settings.questions), p=[*settings.questions.values()]))]
        while True:
            scene = draw_layout(rng, names, settings.num_icons, self.style)
            asked = self.ask(rng, scene, kind)
            if asked is not None:
                return scene, asked

    def _example(self, split: str, index: int) -> Example:
        scene, asked = self.scene(split, index)
        address = ("scenes", "pixels", self._seed(split), split, index)
        noisy = stream("scenes", "label", *address[2:]).random() < self.label_noise if split in _TRAINING else None
        pixels = hashlib.sha256(str((RENDERER_VERSION, scene, address, self.style)).encode()).hexdigest()
        return Example(
            id=f"{split}/{index}",
            split=split,
            pictures=(Picture(f"scenes/{pixels}", _Opener(scene, address, self.style)),),
            target=asked.wrong if noisy else asked.target,
            question=asked.question,
            options=asked.options,
            group=None if split in _TRAINING else asked.kind,
            frame=self.frame,
            noisy=noisy,
        )
