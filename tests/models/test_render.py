"""Conversations to tensors: the same tokens, positions and logits as transformers' own, however they are batched."""

import pytest
import torch
from miniatures import MIXED, ask, picture
from torch import Tensor

from dcsft.models.render import (
    PictureFeatures,
    Prompts,
    append_completions,
    completion_logits,
    render_prompts,
    tokenize_answer,
)
from dcsft.models.vision import encode_pictures
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture

ANSWERS = ("house", "It is a goldfish", "a", "hot dog tree house")


def _features(vlm: VLM, pictures: list[Picture]) -> list[PictureFeatures]:
    features = []
    for one in pictures:
        pixels = vlm.processor.image_processor(images=[one.open()], return_tensors="pt")
        grid = pixels["image_grid_thw"]
        with torch.no_grad():
            features += [(encode_pictures(vlm.visual, pixels["pixel_values"], grid)[0], grid[0])]
    return features


@torch.no_grad()
def _logits(vlm: VLM, prompts: Prompts, answers: list[list[int]]) -> list[Tensor]:
    """[T, V] of each row."""
    logits, _, rows = completion_logits(vlm, append_completions(vlm, prompts, answers))
    return [logits[rows == row] for row in range(len(answers))]


def _chat(messages: list[Message]) -> list[dict]:
    def part(content: str | Picture) -> dict:
        return (
            {"type": "image", "image": content.open()}
            if isinstance(content, Picture)
            else dict(type="text", text=content)
        )

    return [{"role": message.role, "content": [part(content) for content in message.content]} for message in messages]


@pytest.mark.parametrize("row", range(4))
def test_prompt_and_answer_tokens_are_those_of_the_whole_conversation(mini: VLM, row: int) -> None:
    answer = ANSWERS[row]
    prompt = render_prompts(mini, [MIXED[row]]).input_ids[0].tolist()
    chat = [*_chat(MIXED[row]), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    whole = mini.processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"][0]
    ours = prompt + tokenize_answer(mini, answer)
    assert ours[-1] == mini.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ours == list(whole)[: len(ours)]
    assert mini.processor.tokenizer.decode(whole[len(ours) :]) == "\n"  # all that the template adds


def test_a_conversation_of_several_turns_keeps_them_all(shipped: VLM) -> None:
    turns = [
        Message("system", ("Be brief.",)),
        Message("user", (picture("a"), "What is this?")),
        Message("assistant", ("house",)),
        Message("user", ("Sure?",)),
    ]
    ids = render_prompts(shipped, [turns]).input_ids[0]
    assert shipped.processor.tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>What is this?<|im_end|>\n"
        "<|im_start|>assistant\nhouse<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_left_padding_changes_no_logit(mini: VLM) -> None:
    answers = [tokenize_answer(mini, answer) for answer in ANSWERS]
    together = _logits(mini, render_prompts(mini, MIXED), answers)
    for row, answer in enumerate(answers):
        alone = _logits(mini, render_prompts(mini, [MIXED[row]]), [answer])[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_and_targets_are_those_of_a_plain_forward(mini: VLM) -> None:
    answers = [tokenize_answer(mini, answer) for answer in ANSWERS]
    sequences = append_completions(mini, render_prompts(mini, MIXED), answers)
    logits, targets, rows = completion_logits(mini, sequences)
    assert targets.tolist() == [token for answer in answers for token in answer]
    assert rows.tolist() == [row for row, answer in enumerate(answers) for _ in answer]
    for row, answer in enumerate(answers):
        inputs = dict(mini.processor.apply_chat_template(
            _chat(MIXED[row]), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        ))  # fmt: skip
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == mini.model.config.image_token_id).int()
        # The model finds its own positions here; the token at i is predicted at i - 1.
        naive = mini.model(**inputs, use_cache=False).logits[0, -len(answer) - 1 : -1]
        torch.testing.assert_close(logits[rows == row], naive, rtol=0, atol=1e-5)


def test_positions_are_those_of_transformers_on_the_whole_sequence(mini: VLM) -> None:
    answers = [tokenize_answer(mini, answer) for answer in ANSWERS]
    prompts = render_prompts(mini, MIXED)
    inputs = append_completions(mini, prompts, answers).inputs
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["input_ids"])
    width = prompts.input_ids.shape[1]
    mask[:, :width] = prompts.attention_mask
    kinds = (ids == mini.model.config.image_token_id).int()
    theirs, _ = mini.model.model.get_rope_index(
        ids, kinds, image_grid_thw=inputs["image_grid_thw"], attention_mask=mask
    )
    for row, answer in enumerate(answers):
        real = slice(width - prompts.lengths[row], width + len(answer))
        assert torch.equal(inputs["position_ids"][:, row, real], theirs[:, row, real])
    # All three axes go on from the same place: the number of tokens, less what the pictures' grids save.
    following = torch.tensor(prompts.lengths)[:, None] + _deltas_of_prompts(mini, prompts)
    assert torch.equal(prompts.next_position, following)


def _deltas_of_prompts(vlm: VLM, prompts: Prompts) -> Tensor:
    kinds = (prompts.input_ids == vlm.model.config.image_token_id).int()
    grids = prompts.vision["image_grid_thw"]
    return vlm.model.model.get_rope_index(
        prompts.input_ids, kinds, image_grid_thw=grids, attention_mask=prompts.attention_mask
    )[1]


def test_positions_by_hand(shipped: VLM) -> None:
    prompts = render_prompts(shipped, [ask(picture("a"), "What is this?")])
    ids = prompts.input_ids[0].tolist()
    first = ids.index(shipped.model.config.image_token_id)
    # 56 x 56 px is a grid of 2 x 2 merged tokens: one moment, rows 0 0 1 1, columns 0 1 0 1, and then 2 further on.
    assert prompts.position_ids[:, 0, :first].tolist() == [list(range(first))] * 3
    assert (prompts.position_ids[:, 0, first : first + 4] - first).tolist() == [[0] * 4, [0, 0, 1, 1], [0, 1, 0, 1]]
    rest = list(range(first + 2, first + 2 + len(ids) - first - 4))
    assert prompts.position_ids[:, 0, first + 4 :].tolist() == [rest] * 3
    assert prompts.next_position.tolist() == [[rest[-1] + 1]]


def test_features_give_the_same_as_pixels(mini: VLM) -> None:
    if not mini.takes_picture_features:
        pytest.skip("this model adds picture features inside the language model too")
    answers = [tokenize_answer(mini, answer) for answer in ANSWERS]
    by_pixels = render_prompts(mini, MIXED)
    by_features = render_prompts(mini, MIXED, lambda pictures: _features(mini, pictures))
    for name in ("input_ids", "attention_mask", "position_ids", "next_position"):
        assert torch.equal(getattr(by_pixels, name), getattr(by_features, name)), name
    for one, other in zip(_logits(mini, by_pixels, answers), _logits(mini, by_features, answers), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_only_models_without_deep_stacking_take_features(miniatures_by_name: dict[str, VLM]) -> None:
    takers = [family for family, vlm in miniatures_by_name.items() if vlm.takes_picture_features]
    assert takers == ["qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_windowed"]


def test_prompts_without_any_picture_give_the_same_with_and_without_a_feature_source(mini: VLM) -> None:
    texts = [ask("What is a tree?"), ask("What is a house, or a hot dog?")]
    answers = [tokenize_answer(mini, "house")] * 2
    plain = render_prompts(mini, texts)
    with_source = render_prompts(mini, texts, lambda pictures: _features(mini, pictures))
    assert torch.equal(plain.position_ids, with_source.position_ids)
    for one, other in zip(_logits(mini, plain, answers), _logits(mini, with_source, answers), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
def test_a_target_with_a_picture_token_is_refused(shipped: VLM, token: str) -> None:
    with pytest.raises(ValueError, match=r"an answer must not contain picture tokens, got 'a .*'; clean the dataset"):
        tokenize_answer(shipped, f"a {token} house")


def test_an_empty_target_is_the_end_of_the_turn_alone(shipped: VLM) -> None:
    assert tokenize_answer(shipped, "") == [shipped.end_of_turn_id]


@pytest.mark.parametrize("text", ["grüße 東京 🙂", "two  spaces\nand lines", "don't"])
def test_any_text_survives_the_tokenizer(shipped: VLM, text: str) -> None:
    assert shipped.processor.tokenizer.decode(tokenize_answer(shipped, text)[:-1]) == text
