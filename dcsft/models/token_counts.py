"""How many tokens prompts and answers are, from a model's processor alone: no weights are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoConfig

from dcsft.models.families import family_of
from dcsft.models.processors import limit_pictures, load_processor
from dcsft.models.render import chat_text, pictures_in, with_pixels
from dcsft.records import Message

_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
"""What a repository on the Hub has besides weights."""
_WAIT_S = 10


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of one prompt."""

    total: int
    pictures: int
    """Those of them that stand for pictures, their marks included."""


class TokenCounts:
    """Counts as training and sampling do: the same template, the same limits of pictures.

    Args:
        path: a model's folder, or its Hub id; of the Hub, all is fetched but the weights.
        min_pixels, max_pixels, max_tiles: how large pictures are seen; null leaves it to the processor.

    Raises:
        ValueError: there is no processor that we know.
    """

    def __init__(self, path: str | Path, min_pixels: int | None, max_pixels: int | None, max_tiles: int | None) -> None:
        try:
            folder = path if Path(path).is_dir() else _fetched(str(path))
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            family = family_of(config.model_type)
            self.processor = load_processor(folder)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model.path must be a folder or a Hub id with a processor, got {str(path)!r} "
                f"({str(error).splitlines()[0]})"
            ) from error
        limit_pictures(self.processor, family, min_pixels, max_pixels, max_tiles)
        self.context_length: int = config.get_text_config().max_position_embeddings
        known = self.processor.tokenizer.get_vocab()
        self._placeholders = {known[token] for token in family.picture_tokens if token in known}

    def prompt(self, messages: Sequence[Message]) -> PromptTokens:
        """Of a conversation, up to where the assistant begins."""
        encoded = with_pixels(self.processor, [chat_text(self.processor, messages)], [pictures_in(messages)])
        ids = encoded["input_ids"][0].tolist()
        return PromptTokens(len(ids), sum(token in self._placeholders for token in ids))

    def answer(self, text: str) -> int:
        """Of an answer and the end of the turn."""
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


def _fetched(name: str) -> str:
    """The folder of a model's settings in the Hub's cache."""
    return snapshot_download(name, allow_patterns=list(_SETTINGS), etag_timeout=_WAIT_S)
