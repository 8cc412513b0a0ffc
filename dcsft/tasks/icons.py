"""The icon world: a classification task with ID photos and two OOD test sets, drawn on the fly from font glyphs.

It is not a benchmark: it is the paper's experiment in miniature, where every property that may make hard examples
harmful (wrong labels, ambiguous pictures, novel OOD classes) is an argument. Look at it: `python -m dcsft.tasks.icons`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.random import Generator
from PIL import Image

from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.drawing import Array, PhotoStyle, natural_adversarial, photo, rendition, stencil, to_pixels
from dcsft.tasks.task import Task

RENDERER_VERSION = 1
"""Raised whenever a change to the drawing code changes a pixel."""


@dataclass(frozen=True)
class IconClass:
    """One class: its name in the benchmark, what the foundation's captions may call it, and its drawings."""

    name: str
    alias: str
    characters: tuple[str, ...]


@cache
def icon_classes() -> tuple[IconClass, ...]:
    """The 103 classes, in the order of the file that lists them."""
    lines = files("dcsft.tasks").joinpath("icon_glyphs.txt").read_text().splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return tuple(IconClass(name, alias, tuple(chr(int(c, 16)) for c in codes)) for name, alias, *codes in rows)


def draw(style: str, icon: IconClass, rng: Generator, photo_style: PhotoStyle) -> Array:
    """One picture of `icon` in the style "photo", "rendition" or "adversarial"."""
    pool = icon_classes()

    def glyph_of(chosen: IconClass) -> Image.Image:
        return stencil(chosen.characters[int(rng.integers(len(chosen.characters)))])

    def others() -> Image.Image:
        return glyph_of(pool[int(rng.integers(len(pool)))])

    if style == "photo":
        return photo(rng, glyph_of(icon), others, photo_style)
    if style == "adversarial":
        return natural_adversarial(rng, glyph_of(icon), others)
    return rendition(rng, glyph_of(icon))


class Icons(Task):
    """Name the icon. Splits: cold_start, train, id (photos of the ID classes), ood_r (renditions), ood_a (adversarial).

    OOD sets hold some ID classes ("seen") and classes that training never shows ("novel"), in the proportions of the
    paper's ImageNet-R and ImageNet-A subsets (16 of 68 and 24 of 87 seen).

    Args:
        seed: draws the training pictures, their classes' order and the label noise.
        test_seed: draws the test pictures; constant over runs, so that arms and seeds meet the same questions.
        class_seed: draws which classes are ID, OOD-R and OOD-A.
        num_train, num_cold_start, num_test: pictures in "train", in "cold_start" and in each test set.
        num_id_classes: classes that training shows.
        ood_r_classes, ood_a_classes: (seen, novel) classes of the OOD sets.
        label_noise: share of training pictures (cold start included) labelled with a random ID class.
        two_objects, distractors, occlusion, blur: shares of photos with that property.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        seed: int,
        test_seed: int,
        class_seed: int,
        num_train: int,
        num_cold_start: int,
        num_test: int,
        num_id_classes: int,
        ood_r_classes: tuple[int, int],
        ood_a_classes: tuple[int, int],
        label_noise: float,
        two_objects: float,
        distractors: float,
        occlusion: float,
        blur: float,
    ) -> None:
        super().__init__(reward, question)
        shares = dict(
            label_noise=label_noise, two_objects=two_objects, distractors=distractors, occlusion=occlusion, blur=blur
        )
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"task.{name} must be a share in [0, 1], got {share}; give a probability")
        pool = icon_classes()
        num_novel = len(pool) - num_id_classes
        for name, (seen, novel) in dict(ood_r_classes=ood_r_classes, ood_a_classes=ood_a_classes).items():
            if not (0 <= seen <= num_id_classes and 0 <= novel <= num_novel and seen + novel > 0):
                raise ValueError(
                    f"task.{name} must be [seen, novel] with at most {num_id_classes} seen and {num_novel} novel "
                    f"classes, got {[seen, novel]}; of {len(pool)} classes, {num_id_classes} are ID"
                )
        self.seed, self.test_seed = seed, test_seed
        self.label_noise = label_noise
        self.photo_style = PhotoStyle(two_objects, distractors, occlusion, blur)
        self.sizes = {"train": num_train, "cold_start": num_cold_start, "id": num_test}
        self.sizes |= {"ood_r": num_test, "ood_a": num_test}

        rng = np.random.default_rng(class_seed)
        order = [pool[i] for i in rng.permutation(len(pool))]
        self.id_classes, rest = order[:num_id_classes], order[num_id_classes:]

        def draw_classes(seen: int, novel: int) -> list[IconClass]:
            known = rng.choice(len(self.id_classes), seen, replace=False)
            unknown = rng.choice(len(rest), novel, replace=False)
            return [self.id_classes[i] for i in known] + [rest[i] for i in unknown]

        self.ood_classes = {"ood_r": draw_classes(*ood_r_classes), "ood_a": draw_classes(*ood_a_classes)}

    @property
    def ood(self) -> tuple[str, ...]:
        return ("ood_r", "ood_a")

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(icon.name for icon in self.id_classes)

    def identity(self, split: str) -> dict[str, object]:
        shared = {"renderer": RENDERER_VERSION, "split": split, "size": self.sizes[split]}
        if split in ("train", "cold_start"):
            shared |= {"seed": self.seed, "label_noise": self.label_noise}
        else:
            shared |= {"seed": self.test_seed}
        words = [icon.name for icon in self.ood_classes.get(split, self.id_classes)]
        return shared | {"style": str(self.photo_style), "classes": words, "id_classes": sorted(self.classes)}

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self.sizes:
            raise ValueError(f"split must be one of {', '.join(self.sizes)}, got {split!r}; see the docstring of Icons")
        return [self._example(split, index) for index in range(self.sizes[split])]

    def _example(self, split: str, index: int) -> Example:
        """Classes take turns, so every split is balanced."""
        test = split not in ("train", "cold_start")
        icons = self.ood_classes.get(split, self.id_classes)
        icon = icons[index % len(icons)]
        seed = self.test_seed if test else self.seed
        target, noisy = icon.name, False
        if not test:
            rng = stream("icons", "label", seed, split, index)
            noisy = rng.random() < self.label_noise
            if noisy:
                wrong = [other.name for other in self.id_classes if other != icon]
                target = wrong[int(rng.integers(len(wrong)))]
        style = {"ood_r": "rendition", "ood_a": "adversarial"}.get(split, "photo")
        group = None
        if split in self.ood_classes:
            group = "seen" if icon.name in self.classes else "novel"
        return Example(
            id=f"{split}/{index}",
            split=split,
            pictures=(self._picture(style, icon, seed, split, index),),
            target=target,
            group=group,
            noisy=None if test else noisy,
        )

    def _picture(self, style: str, icon: IconClass, seed: int, split: str, index: int) -> Picture:
        nuisances = self.photo_style
        name = f"icons-{RENDERER_VERSION}/{style}/{icon.name}/{seed}/{split}/{index}/{nuisances}"
        return Picture(name, _Opener(style, icon, ("icons", "picture", seed, split, index), nuisances))


@dataclass(frozen=True)
class _Opener:
    """Draws one picture when called; a class and not a closure, so that it travels to worker processes."""

    style: str
    icon: IconClass
    address: tuple[object, ...]
    photo_style: PhotoStyle

    def __call__(self) -> Image.Image:
        return Image.fromarray(to_pixels(draw(self.style, self.icon, stream(*self.address), self.photo_style)))


def _contact_sheet(columns: int = 20, rows: int = 4) -> Image.Image:
    """Rows of each style, to be looked at."""
    style, pool = PhotoStyle(0.08, 0.3, 0.22, 0.3), icon_classes()
    cell = 58
    sheet = Image.new("RGB", (columns * cell, 3 * rows * cell), "white")
    for block, name in enumerate(("photo", "rendition", "adversarial")):
        for i in range(columns * rows):
            canvas = draw(name, pool[i * 7 % len(pool)], stream("sheet", name, i), style)
            sheet.paste(Image.fromarray(to_pixels(canvas)), (i % columns * cell, (block * rows + i // columns) * cell))
    return sheet


if __name__ == "__main__":
    _contact_sheet().save("icons.png")
    print("icons.png")
