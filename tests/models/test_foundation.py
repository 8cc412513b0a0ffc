"""The shipped weights are the ones their recipe speaks of, and the recipe still runs, also when it is interrupted."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from dcsft.config import CONF, register
from dcsft.models import pretrain
from dcsft.models.pretrain import Gaze, Lesson, Phase, pretrain_detection, pretrain_language, pretrain_vision
from dcsft.models.tiny import build_model, build_processor, build_tokenizer
from dcsft.models.vlm import VLM
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION
from dcsft.stages.plan import foundation_recipe, shipped_foundation
from dcsft.tasks.foundation_mix import DIGIT_QUESTION, ICON_QUESTION, QUESTIONS, Mix, draw_picture
from dcsft.tasks.scene_mix import SceneMix, corpus, draw_pool, tokens_of
from dcsft.tasks.scenes import COLOURS, USES

SIZES = dict(hidden_size=48, num_layers=1, num_heads=4, vision_hidden_size=32, vision_depth=2)
PHASE = Phase(steps=6, batch_size=8, lr=3e-3, weight_decay=0.05, warmup_steps=2)
SCENES = FOUNDATION.with_name("foundation_scenes")
SHIPPED = pytest.mark.parametrize(
    ("name", "folder"), [one for one in (("tiny", FOUNDATION), ("tiny_scenes", SCENES)) if one[1].exists()]
)


@SHIPPED
def test_the_shipped_weights_are_those_of_their_recipe(name: str, folder: Path) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == recipe["weights_sha256"]


@SHIPPED
def test_the_shipped_recipe_is_the_one_of_the_configuration(name: str, folder: Path) -> None:
    """Who changes conf/model/tiny.yaml must train and ship the weights anew."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"model={name}"])
    assert shipped_foundation(cfg) == folder
    composed = foundation_recipe(cfg)
    assert json.loads((folder / "recipe.json").read_text())["recipe"] == json.loads(json.dumps(composed))


@SHIPPED
def test_the_shipped_architecture_is_the_one_of_the_recipe(name: str, folder: Path) -> None:
    recipe, shipped = json.loads((folder / "recipe.json").read_text())["recipe"], VLM.load(folder)
    sizes = {name: recipe[name] for name in SIZES}
    fresh = build_model(shipped.processor.tokenizer, recipe["seed"], **sizes)
    assert len(shipped.processor.tokenizer) == recipe["vocab_size"]
    theirs = {name: tensor.shape for name, tensor in shipped.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == theirs


def test_the_words_of_scenes_are_single_tokens() -> None:
    """And digits, brackets, commas and letters: an answer is as long as it looks."""
    tokenizer = VLM.load(SCENES).processor.tokenizer
    assert all(len(tokenizer(f" {word}")["input_ids"]) == 1 for word in {*USES, *COLOURS})
    assert tokenizer.tokenize("[7, 31]") == ["[", "7", ",", "Ġ", "3", "1", "]"]
    longest = tokenizer("[100, 100, 111, 111]")["input_ids"]
    assert len(longest) + 1 <= 24  # with the end of the turn: the limit of new tokens in conf/task/icon_scenes.yaml


def test_the_words_of_the_mix_are_in_the_shipped_vocabulary_by_bytes_at_least(shipped: VLM) -> None:
    recipe = json.loads((FOUNDATION / "recipe.json").read_text())["recipe"]
    mix = Mix(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe["mix"].items()})
    tokenizer = shipped.processor.tokenizer
    lengths = [len(tokenizer(word)["input_ids"]) for word in mix.words()]
    assert [tokenizer.decode(tokenizer(word)["input_ids"]) for word in mix.words()] == mix.words()
    assert max(lengths) + 1 <= 8  # with the end of the turn: the limit of new tokens in conf/model/tiny.yaml


# --- training from scratch -------------------------------------------------------------------------------------------


def _progress(title: str, steps: Iterable[int], total: int) -> Iterator[int]:
    yield from steps


def _killed_at(title_and_step: tuple[str, int]) -> Callable[[str, Iterable[int], int], Iterator[int]]:
    def progress(title: str, steps: Iterable[int], total: int) -> Iterator[int]:
        for step in steps:
            if (title, step) == title_and_step:
                raise KeyboardInterrupt
            yield step

    return progress


@pytest.fixture(scope="module")
def pool() -> tuple[Mix, np.ndarray, np.ndarray]:
    mix = Mix(24, 0.2, (0.6, 0.2, 0.2), (0.0, 0.5), (0.5, 0.5), seed=0)
    pictures, numbers = zip(*(draw_picture(mix, i) for i in range(mix.num_pictures)), strict=True)
    return mix, np.stack(pictures), np.array(numbers)


def _train(pool: tuple[Mix, np.ndarray, np.ndarray], folder: Path, progress: Callable = _progress) -> VLM:
    """What dcsft.stages.foundation does, small."""
    mix, pictures, numbers = pool
    tokenizer = build_tokenizer([*mix.words(), *QUESTIONS, ICON_QUESTION, DIGIT_QUESTION], 400)
    vlm = VLM(build_model(tokenizer, 0, **SIZES), build_processor(tokenizer, 3136, 3136))
    folder.mkdir(exist_ok=True)
    pretrain_vision(vlm.model, vlm.processor, pictures, numbers, len(mix.names), PHASE, 0, folder, progress)
    alias = mix.alias_probability()

    def lesson(row: int, rng: np.random.Generator) -> Lesson:
        return Lesson(mix.question(int(numbers[row]), rng), mix.caption(int(numbers[row]), rng, alias))

    pretrain_language(vlm, pictures, lesson, PHASE, 0, folder, progress)
    return vlm


@pytest.fixture(scope="module")
def undisturbed(pool: tuple, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return _train(pool, tmp_path_factory.mktemp("foundation")).model.state_dict()


def test_training_moves_every_part(pool: tuple, undisturbed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    mix = pool[0]
    tokenizer = build_tokenizer([*mix.words(), *QUESTIONS, ICON_QUESTION, DIGIT_QUESTION], 400)
    fresh = build_model(tokenizer, 0, **SIZES).state_dict()
    assert [name for name in fresh if torch.equal(fresh[name], undisturbed[name])] == []


@pytest.mark.parametrize("killed_at", [("vision", 4), ("language", 0), ("language", 1), ("language", 4)])
def test_a_killed_training_goes_on_to_the_same_weights(
    pool: tuple,
    undisturbed: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: tuple[str, int],
) -> None:
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        _train(pool, tmp_path, _killed_at(killed_at))
    resumed = _train(pool, tmp_path).model.state_dict()
    assert [name for name in undisturbed if not torch.equal(undisturbed[name], resumed[name])] == []


WORDS = [range(20), range(20, 26)]
"""Token numbers of classes and colours; which ones is all the same to the training."""


def _train_scenes(folder: Path, progress: Callable = _progress) -> VLM:
    """What dcsft.stages.foundation does with scenes, small."""
    style = dict(sizes_px=(20, 36), repeats=0.3, clutter=0.3, blur=0.2, noise=0.05)
    mix = SceneMix(12, (2, 4), style, 0.5, {"noun": 1.0}, {"count": 1.0}, seed=0)
    ((pictures, labels, edges),) = draw_pool(mix, num_processes=1)
    tokenizer = build_tokenizer(corpus(mix, 20), 320)
    vlm = VLM(build_model(tokenizer, 0, **SIZES | {"num_layers": 3}), build_processor(tokenizer, 12544, 12544))
    folder.mkdir(exist_ok=True)
    pretrain_detection(vlm.model, vlm.processor, pictures, labels, edges, WORDS, PHASE, 0, folder, progress)

    def lesson(row: int, rng: np.random.Generator) -> Lesson:
        question, answer, icon = mix.ask(mix.layout(row), rng)
        return Lesson(question, answer, None if icon is None else tokens_of(icon))

    pretrain_language(vlm, pictures, lesson, PHASE, 0, folder, progress, Gaze(WORDS, labels))
    return vlm


@pytest.fixture(scope="module")
def undisturbed_scenes(tmp_path_factory: pytest.TempPathFactory) -> VLM:
    return _train_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize("killed_at", [("vision", 4), ("language", 0), ("language", 4)])
def test_a_killed_training_on_scenes_goes_on_to_the_same_weights(
    undisturbed_scenes: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: tuple[str, int]
) -> None:
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        _train_scenes(tmp_path, _killed_at(killed_at))
    undisturbed, resumed = undisturbed_scenes.model.state_dict(), _train_scenes(tmp_path).model.state_dict()
    assert [name for name in undisturbed if not torch.equal(undisturbed[name], resumed[name])] == []


def test_attention_is_as_before_once_it_needs_no_guide(undisturbed_scenes: VLM) -> None:
    assert undisturbed_scenes.language_model.config._attn_implementation == "sdpa"


def test_words_begin_as_vectors_of_what_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of classes and colours come from the vision phase, as large as the pictures' features will be."""
    begun: list[torch.Tensor] = []

    def instead(vlm: VLM, *rest: object) -> None:
        begun.append(vlm.model.get_input_embeddings().weight.detach())

    monkeypatch.setitem(globals(), "pretrain_language", instead)
    _train_scenes(tmp_path)
    assert float(begun[0][:26].std()) == pytest.approx(0.3, rel=1e-5)
    assert float(begun[0][26:].std()) < 0.03  # untouched


def test_the_loss_of_where_attention_goes_by_hand() -> None:
    # One picture of two tokens, at positions 1 and 2; then the word "star" (token 7), a last prompt token, an answer.
    ids = torch.tensor([[1, 5, 5, 7, 2, 9]])
    labels = np.array([[[0], [1]]])  # the first token shows the star, the second something else
    first_layer, answers_layer = torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 6, 6)
    first_layer[0, 0, 3] = torch.tensor([0.3, 0.5, 0.1, 0.1, 0.0, 0.0])  # what "star" looks at
    answers_layer[0, 0, 4] = torch.tensor([0.2, 0.1, 0.25, 0.25, 0.2, 0.0])  # what predicts the answer looks at
    gaze = Gaze([[7, 8]], labels, layer=1)
    given = ([first_layer, answers_layer], ids, torch.tensor([1]), [0])
    answers = torch.tensor([[True]])
    both = gaze.loss(*given, [np.array([False, True])], answers)
    assert float(both) == pytest.approx(-np.log(0.5) - np.log(0.25), rel=1e-4)
    assert float(gaze.loss(*given, [None], answers)) == pytest.approx(-np.log(0.5), rel=1e-4)


def test_the_learning_rate_by_hand() -> None:
    phase = Phase(steps=100, batch_size=1, lr=2.0, weight_decay=0.0, warmup_steps=10)
    # Warm-up and cosine are multiplied: at step 4, 5/10 of a cosine at 4/100; at the half 0.5; never below 2 %.
    assert pretrain._rate(4, phase) == pytest.approx(2 * 0.5 * (0.5 + 0.5 * np.cos(0.04 * np.pi)), rel=1e-12)
    assert pretrain._rate(50, phase) == pytest.approx(1.0, rel=1e-12)
    assert pretrain._rate(99, phase) == pytest.approx(0.04, rel=1e-12)
