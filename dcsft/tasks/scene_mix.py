"""What the foundation of the scene tasks has seen: scenes of all classes with phrases and quizzes on them."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dcsft.boxes import Box, Frame
from dcsft.seeding import stream
from dcsft.tasks.phrases import draw_phrase
from dcsft.tasks.quizzes import draw_quiz
from dcsft.tasks.scenes import COLOURS, SCENE_PX, USES, Icon, Scene, SceneStyle, draw_layout, draw_scene, style_of

PHRASE_TEMPLATES = ("Find {phrase}.", "Where is {phrase}? Answer with its box.")
QUIZ_TEMPLATES = ("{question}", "{question} Answer with a letter.")
"""The benchmarks' own are the last, one in four."""
ATTRIBUTES = (tuple(USES), tuple(COLOURS))
"""What can be said of an icon: its class and its colour."""
_TOKEN_PX = 28
_SHOWN = 0.2  # the least share of an icon that counts as shown


@dataclass(frozen=True)
class SceneMix:
    """Shares of the pool and of its questions.

    Args:
        num_pictures: size of the pool.
        num_icons: least and most icons of a scene.
        style: how hard they are to see, as SceneStyle says.
        quizzes: share of multiple-choice questions; the rest ask for boxes.
        forms: shares of the forms of phrases.
        kinds: shares of the kinds of quizzes.
        seed: draws the pictures.
    """

    num_pictures: int
    num_icons: tuple[int, int]
    style: Mapping[str, Any]
    quizzes: float
    forms: Mapping[str, float]
    kinds: Mapping[str, float]
    seed: int

    @property
    def seen(self) -> SceneStyle:
        return style_of("model.foundation.mix.style", self.style)

    def layout(self, index: int) -> Scene:
        """Scene `index` of the pool."""
        return draw_layout(stream("scenes", "layout", self.seed, index), tuple(USES), self.num_icons, self.seen)

    def ask(self, scene: Scene, rng: Generator) -> tuple[str, str, Icon | None]:
        """A question on a scene, its answer, and the icon that it asks for, if it asks for one."""
        while True:
            own = int(rng.random() < 0.25)
            if rng.random() < self.quizzes:
                quiz = draw_quiz(rng, scene, _one_of(rng, self.kinds))
                if quiz is not None:
                    return quiz.text(QUIZ_TEMPLATES[own]), quiz.letter, None
            else:
                found = draw_phrase(rng, scene, _one_of(rng, self.forms))
                if found is not None:
                    phrase, icon = found
                    box = Box(*icon.corners, Frame(SCENE_PX, SCENE_PX)).whole()
                    return PHRASE_TEMPLATES[own].replace("{phrase}", phrase.text), box, icon


def _one_of(rng: Generator, shares: Mapping[str, float]) -> str:
    return list(shares)[int(rng.choice(len(shares), p=[*shares.values()]))]


def _shares(icon: Icon) -> NDArray[np.float64]:
    """How much of the icon each image token shows [rows, columns]."""
    x1, y1, x2, y2 = icon.corners
    starts = np.arange(SCENE_PX // _TOKEN_PX) * _TOKEN_PX
    across = np.clip(np.minimum(x2, starts + _TOKEN_PX) - np.maximum(x1, starts), 0, None)
    down = np.clip(np.minimum(y2, starts + _TOKEN_PX) - np.maximum(y1, starts), 0, None)
    return down[:, None] * across[None] / ((x2 - x1) * (y2 - y1))


def tokens_of(icon: Icon) -> NDArray[np.bool_]:
    """The image tokens that show the icon, a fifth of it at least, row by row [tokens]."""
    return (_shares(icon) > _SHOWN).ravel()


def token_labels(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each image token of the scene, row by row: the class and the colour of the icon that covers most of it (the
    last number: none) [tokens, 2], and the icon's edges from the middle of the scene, in tokens [tokens, 4]."""
    side = SCENE_PX // _TOKEN_PX
    labels = np.full((side, side, 2), [len(values) for values in ATTRIBUTES], np.int64)
    edges, most = np.zeros((side, side, 4), np.float32), np.full((side, side), _SHOWN)
    for icon in scene:
        share = _shares(icon)
        here = share > most
        labels[here] = [values.index(value) for values, value in zip(ATTRIBUTES, (icon.name, icon.colour), strict=True)]
        edges[here] = (np.array(icon.corners) - SCENE_PX / 2) / _TOKEN_PX
        most = np.maximum(most, share)
    return labels.reshape(-1, 2), edges.reshape(-1, 4)


def corpus(mix: SceneMix, count: int) -> list[str]:
    """Questions as the foundation reads them, for the tokenizer to learn its words from."""
    return [mix.ask(mix.layout(i), stream("scenes", "corpus", mix.seed, i))[0] for i in range(count)]


def _draw_many(mix: SceneMix, indices: range) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
    scenes = [mix.layout(index) for index in indices]
    pixels = [stream("scenes", "pool", mix.seed, index) for index in indices]
    pictures = np.stack([draw_scene(scene, rng, mix.seen) for scene, rng in zip(scenes, pixels, strict=True)])
    labels, edges = zip(*map(token_labels, scenes), strict=True)
    return pictures, np.stack(labels), np.stack(edges)


def draw_pool(
    mix: SceneMix, num_processes: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]]:
    """The pool in order, up to a thousand scenes at a time: pictures [n, SCENE_PX, SCENE_PX, 3] and token_labels."""
    chunks = [range(start, min(start + 1000, mix.num_pictures)) for start in range(0, mix.num_pictures, 1000)]
    with ProcessPoolExecutor(num_processes) as workers:
        yield from workers.map(_draw_many, [mix] * len(chunks), chunks)
