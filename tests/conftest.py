"""One thread, no network; the shipped model and the miniatures."""

import os
from collections.abc import Callable, Iterator, Sequence

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from miniatures import FAMILIES, miniature
from PIL import Image
from tiny_server import TinyServer
from transformers.utils import logging

from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Item
from dcsft.records import DIFFICULTIES, Message, Picture
from dcsft.seeding import stream
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION
from dcsft.tasks.drawing import PhotoStyle, to_pixels
from dcsft.tasks.icons import draw, icon_classes

torch.set_num_threads(1)
logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _no_hydra_left_over() -> None:
    """Hydra composes with a global search path, and refuses a second one."""
    GlobalHydra.instance().clear()


@pytest.fixture(scope="session")
def shipped() -> VLM:
    """The model of the package; not to be changed."""
    return VLM.load(FOUNDATION)


@pytest.fixture
def vlm() -> VLM:
    """The model of the package, the test's own."""
    return VLM.load(FOUNDATION)


@pytest.fixture(scope="session")
def running_server() -> Iterator[TinyServer]:
    """A server process that holds the model of the package."""
    server = TinyServer(FOUNDATION).start()
    yield server
    server.kill()


@pytest.fixture
def server(running_server: TinyServer) -> TinyServer:
    """The server process, well-behaved."""
    running_server.behave()
    return running_server


@pytest.fixture(scope="session")
def lora() -> Callable[..., VLM]:
    """Makes the shipped model with LoRA; `trained`: not as it starts, where half of its gradients are zero."""

    def make(dropout: float = 0.0, parts: Sequence[str] = ("llm",), trained: bool = False) -> VLM:
        vlm = VLM.load(FOUNDATION)
        vlm.add_lora(r=4, alpha=8, dropout=dropout, parts=parts, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in vlm.trainable_state().values() if trained else ():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        vlm.model.eval()  # as it is after it has answered something
        return vlm

    return make


@pytest.fixture(scope="session")
def miniatures_by_name() -> dict[str, VLM]:
    return {family: miniature(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def mini(request: pytest.FixtureRequest, miniatures_by_name: dict[str, VLM]) -> VLM:
    """Each miniature in turn; not to be changed."""
    return miniatures_by_name[request.param]


def _icon_picture(number: int) -> Picture:
    def open_it() -> Image.Image:
        icon = icon_classes()[number % len(icon_classes())]
        return Image.fromarray(to_pixels(draw("photo", icon, stream("test", number), PhotoStyle(0, 0, 0, 0))))

    return Picture(f"test/{number}", open_it)


@pytest.fixture(scope="session")
def icon_picture() -> Callable[[int], Picture]:
    """Picture `number` of an endless series of icon photos."""
    return _icon_picture


@pytest.fixture(scope="session")
def icon_items(shipped: VLM) -> Callable[[int], list[Item]]:
    """The first n training rows of that series; every third is easy, medium, hard."""

    def items(n: int) -> list[Item]:
        return [
            Item(
                id=f"test/{number}",
                messages=[Message("user", (_icon_picture(number), "What is this?"))],
                answer_ids=tokenize_answer(shipped, icon_classes()[number % len(icon_classes())].name),
                difficulty=DIFFICULTIES[number % 3],
            )
            for number in range(n)
        ]

    return items
