"""Referring phrases over scenes: what each says, as words and as a test of icons, so that it names exactly one."""

from dataclasses import dataclass

from numpy.random import Generator

from dcsft.tasks.scenes import USES, Icon, Scene

FORMS = ("noun", "colour", "both", "relation", "relation_both", "use", "two_hops")
"""the star; the red icon; the red star; the star left of the cat; the red star left of the blue cat; the thing that
shines at night; the icon left of the icon above the cat."""
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""The axis of each (0: x, 1: y) and on which side of the anchor the icon is."""
CLEAR_PX = 12
"""An icon is left of another when its centre is at least so far left; one that is less far makes a phrase unclear."""
_TRIES = 30


@dataclass(frozen=True)
class Phrase:
    """A definite description of an icon: what it is, and where it is to another one.

    Example:
        >>> Phrase("star", "red", "left of", Phrase("cat")).text
        'the red star left of the cat'
    """

    name: str | None = None
    colour: str | None = None
    relation: str | None = None
    anchor: "Phrase | None" = None
    by_use: bool = False
    """Say what the class is for instead of its name."""

    @property
    def text(self) -> str:
        if self.by_use:
            assert self.name is not None
            return f"the thing {USES[self.name]}"
        words = ["the", self.colour, self.name or "icon"]
        if self.anchor is not None:
            words += [self.relation, self.anchor.text]
        return " ".join(word for word in words if word)

    def named(self, scene: Scene) -> Icon | None:
        """The one icon that the phrase names; None where it names several, none, or one that is not clear."""
        found = [icon for icon in scene if self.name in (None, icon.name) and self.colour in (None, icon.colour)]
        if self.anchor is not None and self.relation is not None:
            anchor = self.anchor.named(scene)
            if anchor is None:
                return None
            axis, sign = RELATIONS[self.relation]
            far = [(sign * (icon.centre[axis] - anchor.centre[axis]), icon) for icon in found if icon != anchor]
            if any(0 < distance < CLEAR_PX for distance, _ in far):
                return None
            found = [icon for distance, icon in far if distance >= CLEAR_PX]
        return found[0] if len(found) == 1 else None


def _candidate(rng: Generator, icon: Icon, others: list[Icon], form: str) -> Phrase:
    """A phrase of the form that may name `icon`."""
    relation = list(RELATIONS)[int(rng.integers(len(RELATIONS)))]
    first, second = (others[int(rng.integers(len(others)))] for _ in range(2))
    match form:
        case "noun":
            return Phrase(icon.name)
        case "colour":
            return Phrase(None, icon.colour)
        case "both":
            return Phrase(icon.name, icon.colour)
        case "use":
            return Phrase(icon.name, by_use=True)
        case "relation":
            return Phrase(icon.name, None, relation, Phrase(first.name))
        case "relation_both":
            return Phrase(icon.name, icon.colour, relation, Phrase(first.name, first.colour))
        case "two_hops":
            inner = list(RELATIONS)[int(rng.integers(len(RELATIONS)))]
            return Phrase(None, None, relation, Phrase(None, None, inner, Phrase(second.name)))
    raise ValueError(f"a form of phrases must be one of {', '.join(FORMS)}, got {form!r}")


def draw_phrase(rng: Generator, scene: Scene, form: str) -> tuple[Phrase, Icon] | None:
    """A phrase of the form and the one icon that it names; None where the tries have found none.

    A relation is said where it is needed: the icon has a twin that only its place tells from it.
    """
    for _ in range(_TRIES if len(scene) > 1 else 0):
        number = int(rng.integers(len(scene)))
        icon, others = scene[number], [*scene[:number], *scene[number + 1 :]]
        phrase = _candidate(rng, icon, others, form)
        if form in ("relation", "relation_both") and Phrase(icon.name).named(scene) is not None:
            continue
        named = phrase.named(scene)
        if named is not None:
            return phrase, named
    return None
