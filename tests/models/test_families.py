"""The same code serves every family: what it computes is what transformers computes, however rows are batched."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from miniatures import ALL, MIXED, ask, log_probs, miniature, picture
from torch import Tensor

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.completion_logps import LONG_TOKENS, completion_logps
from dcsft.models.families import FAMILIES
from dcsft.models.render import append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Item
from dcsft.paradigms.sft import SFT
from dcsft.records import PARTS, Message, Picture

GOLDEN = Path(__file__).parent.parent / "references" / "family_logits.json"
ANSWERS = ("house", "It is a goldfish", "a", "hot dog tree house")
SIZES = (
    *MIXED,
    ask(picture("e", 112, 56), "What is this?"),
    ask("?", picture("f", 40, 168)),
)
"""One, no and two pictures of six sizes, which become one to five tiles."""
REQUESTS = [Request(f"train/{i}", messages) for i, messages in enumerate(SIZES)]


@pytest.fixture(scope="module")
def all_miniatures() -> dict[str, VLM]:
    return {name: miniature(name) for name in ALL}


@pytest.fixture(params=ALL)
def any_mini(request: pytest.FixtureRequest, all_miniatures: dict[str, VLM]) -> VLM:
    """Each in turn; not to be changed."""
    return all_miniatures[request.param]


def _logits(vlm: VLM, conversations: Sequence[Sequence[Message]]) -> list[Tensor]:
    """[T, V] for each row."""
    answers = [tokenize_answer(vlm, ANSWERS[row % 4]) for row in range(len(conversations))]
    sequences = append_completions(vlm, render_prompts(vlm, conversations), answers)
    logits, _, rows = completion_logits(vlm, sequences)
    return [logits[rows == row] for row in range(len(answers))]


def _batches(vlm: VLM) -> list[list[int]]:
    """The rows of SIZES that may stand in one batch."""
    counts = [sum(isinstance(part, Picture) for message in row for part in message.content) for row in SIZES]
    if not vlm.family.equal_pictures:
        return [list(range(len(SIZES)))]
    return [[row for row, count in enumerate(counts) if count == kind] for kind in sorted(set(counts))]


def _all_logits(vlm: VLM) -> list[Tensor]:
    """[T, V] for each row of SIZES, in as few batches as may be."""
    found = {}
    for rows in _batches(vlm):
        answers = [tokenize_answer(vlm, ANSWERS[row % 4]) for row in rows]
        sequences = append_completions(vlm, render_prompts(vlm, [SIZES[row] for row in rows]), answers)
        logits, _, places = completion_logits(vlm, sequences)
        found |= {row: logits[places == place] for place, row in enumerate(rows)}
    return [found[row] for row in range(len(SIZES))]


def _chat(messages: Sequence[Message]) -> list[dict]:
    def part(content: str | Picture) -> dict:
        opened = isinstance(content, Picture)
        return {"type": "image", "image": content.open()} if opened else {"type": "text", "text": content}

    return [{"role": message.role, "content": [part(content) for content in message.content]} for message in messages]


def test_every_family_has_a_miniature() -> None:
    assert {miniature(name).model.config.model_type for name in ALL} == set(FAMILIES)


def test_prompt_and_answer_are_the_tokens_of_the_whole_conversation(any_mini: VLM) -> None:
    """No token twice (such as the first of the text, which template and tokenizer both have), and the right end."""
    for messages in SIZES:
        chat = [*_chat(messages), {"role": "assistant", "content": [{"type": "text", "text": "house"}]}]
        if "gemma" in any_mini.model.config.model_type:
            chat[-1]["role"] = "model"  # what its template makes of the assistant
        whole = any_mini.processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"][0]
        ours = [*render_prompts(any_mini, [messages]).input_ids[0].tolist(), *tokenize_answer(any_mini, "house")]
        assert ours == list(whole)[: len(ours)]
        assert any_mini.processor.tokenizer.decode(whole[len(ours) :]).strip() == ""


def test_without_weights_a_model_knows_its_tokens(any_mini: VLM, tmp_path: Path) -> None:
    any_mini.save(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    bare = VLM.load(tmp_path, weights=False)
    for name in ("eos_ids", "picture_ids", "end_of_turn_id", "context_length"):
        assert getattr(bare, name) == getattr(any_mini, name), name
    assert bare.contract.pictures == any_mini.contract.pictures
    assert all(parameter.is_meta for parameter in bare.model.parameters())


@torch.no_grad()
def test_padded_rows_of_mixed_pictures_are_those_computed_alone(any_mini: VLM) -> None:
    together = _all_logits(any_mini)
    for row, messages in enumerate(SIZES):
        answer = tokenize_answer(any_mini, ANSWERS[row % 4])
        alone = completion_logits(
            any_mini, append_completions(any_mini, render_prompts(any_mini, [messages]), [answer])
        )
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_pictures_and_their_order_matter(any_mini: VLM) -> None:
    """Else the tests above would say little."""
    first, second = picture("x", 112, 56), picture("y", 56, 84)
    logits = _logits(any_mini, [ask(first, second, "?"), ask(second, first, "?")])
    assert (logits[0][0] - logits[1][0]).abs().max() > 0.02


@torch.no_grad()
def test_log_probabilities_are_those_of_a_plain_forward(any_mini: VLM) -> None:
    for row, logits in enumerate(_all_logits(any_mini)):
        answer = tokenize_answer(any_mini, ANSWERS[row % 4])
        logits[:, any_mini.picture_ids] = float("-inf")
        ours = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(ours, log_probs(any_mini, SIZES[row], answer), rtol=0, atol=1e-5)


def _generate(vlm: VLM, messages: Sequence[Message], max_new_tokens: int) -> tuple[int, ...]:
    """Greedy tokens of transformers."""

    def forbid(_: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, vlm.picture_ids] = float("-inf")
        return scores

    inputs = vlm.processor.apply_chat_template(
        _chat(messages), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, logits_processor=[forbid])
    tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
    ends = [i for i, token in enumerate(tokens) if token in vlm.eos_ids]
    return tuple(tokens[: ends[0] + 1] if ends else tokens)


@pytest.mark.parametrize("decoding", ["tree", "expand"])
def test_greedy_tokens_are_those_of_generate(any_mini: VLM, decoding: str) -> None:
    answers = SharedPrefix(any_mini, 64, decoding).generate(REQUESTS, 1, Sampling.greedy(10))
    assert [row[0].token_ids for row in answers] == [_generate(any_mini, messages, 10) for messages in SIZES]


@pytest.mark.parametrize("decoding", ["tree", "expand"])
def test_a_labelling_batch_has_the_log_probabilities_of_a_plain_forward(any_mini: VLM, decoding: str) -> None:
    sampling = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=7, seed=5)
    answers = SharedPrefix(any_mini, 64, decoding).generate(REQUESTS, 4, sampling)
    assert len({completion.token_ids for row in answers for completion in row}) > 12  # of 24: samples differ
    for request, row in zip(REQUESTS, answers, strict=True):
        for completion in row:
            assert not set(completion.token_ids) & set(any_mini.placeholder_ids)
            plain = log_probs(any_mini, request.messages, completion.token_ids, temperature=0.9)
            assert completion.logp == pytest.approx(float(plain.sum()), abs=2e-5 * len(plain))


@torch.no_grad()
@pytest.mark.parametrize("repeats", [1, 8])  # a mask for short completions, an attention function for long ones
def test_log_probabilities_of_a_group_are_those_of_a_plain_forward(any_mini: VLM, repeats: int) -> None:
    group = [tokenize_answer(any_mini, answer * repeats) for answer in ANSWERS]
    assert (max(map(len, group)) >= LONG_TOKENS) == (repeats > 1)
    for rows in _batches(any_mini):
        prompts = render_prompts(any_mini, [SIZES[row] for row in rows])
        logps, mask = completion_logps(any_mini, prompts, [group] * len(rows), 0.9)
        for place, row in enumerate(rows):
            for number, answer in enumerate(group):
                plain = log_probs(any_mini, SIZES[row], answer, temperature=0.9)
                torch.testing.assert_close(logps[place, number][mask[place, number]], plain, rtol=0, atol=1e-5)


def test_rows_that_mllama_would_let_change_one_another_are_refused(all_miniatures: dict[str, VLM]) -> None:
    with pytest.raises(
        ValueError, match=r"rows of a batch must have equally many pictures with mllama, got 1, 0, 2, 1;"
    ):
        render_prompts(all_miniatures["mllama"], MIXED)


def test_gemma_alone_and_models_with_other_layers_share_no_prefix(all_miniatures: dict[str, VLM]) -> None:
    assert [name for name, vlm in all_miniatures.items() if not vlm.full_attention] == ["gemma3"]


@pytest.mark.parametrize("family", ALL)
def test_an_sft_step_moves_every_tuned_weight_of_every_part(family: str) -> None:
    vlm = miniature(family)
    vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=PARTS, seed=0)
    with torch.no_grad():
        for parameter in vlm.trainable_state().values():
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    vlm.model.train()
    rows = [Item(str(i), SIZES[i], tokenize_answer(vlm, ANSWERS[i % 4]), None) for i in _batches(vlm)[-1]]
    losses = []
    for _ in range(2):
        term = SFT().loss(vlm, rows, rows, None)
        for parameter in vlm.model.parameters():
            parameter.grad = None
        term.loss.backward()
        losses.append(term.loss.item())
        still = [name for name, p in vlm.model.named_parameters() if p.requires_grad and p.grad is None]
        assert not still, "tuned, but no forward pass goes through them"
        for parameter in vlm.model.parameters():
            if parameter.requires_grad:
                assert torch.isfinite(parameter.grad).all()
                parameter.data -= 1e-2 * parameter.grad.sign()
    assert losses[1] < losses[0]


@pytest.mark.parametrize("family", ALL)
def test_full_tuning_reaches_every_part(family: str) -> None:
    vlm = miniature(family)
    vlm.tune_fully(PARTS)
    rows = [Item("a", SIZES[2], tokenize_answer(vlm, "house"), None)]
    SFT().loss(vlm, rows, rows, None).loss.backward()
    moved = {
        vlm.family.part_of(name) for name, p in vlm.model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert moved >= set(PARTS)
    assert "unused" not in moved


@pytest.mark.parametrize("family", ALL)
def test_an_adapter_is_added_saved_loaded_and_merged(family: str, tmp_path: Path) -> None:
    vlm = miniature(family)
    before = torch.cat(_all_logits(vlm)).detach()
    vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=PARTS, seed=0)
    vlm.model.eval()
    assert torch.equal(torch.cat(_all_logits(vlm)), before)
    with torch.no_grad():
        for parameter in vlm.trainable_state().values():
            parameter.normal_(0, 0.03, generator=torch.Generator().manual_seed(0))
    tuned = torch.cat(_all_logits(vlm)).detach()
    assert (tuned - before).abs().max() > 0.02
    with vlm.reference():
        assert torch.equal(torch.cat(_all_logits(vlm)), before)
    vlm.save(tmp_path / "adapter")
    again = miniature(family)
    again.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(torch.cat(_all_logits(again)), tuned, rtol=0, atol=1e-5)
    again.merge_adapter()
    torch.testing.assert_close(torch.cat(_all_logits(again)), tuned, rtol=0, atol=1e-5)
    again.save(tmp_path / "merged")
    loaded = VLM.load(tmp_path / "merged")
    torch.testing.assert_close(torch.cat(_all_logits(loaded)), tuned, rtol=0, atol=1e-5)


def test_the_processor_survives_saving(any_mini: VLM, tmp_path: Path) -> None:
    any_mini.save(tmp_path)
    again = VLM.load(tmp_path)
    assert type(again.processor) is type(any_mini.processor)
    assert (again.placeholder_ids, again.end_of_turn_id) == (any_mini.placeholder_ids, any_mini.end_of_turn_id)
    assert again.contract.pictures == any_mini.contract.pictures
    for rows in _batches(any_mini):
        before, after = (render_prompts(vlm, [SIZES[row] for row in rows]) for vlm in (any_mini, again))
        assert torch.equal(before.input_ids, after.input_ids)
        assert before.vision.keys() == after.vision.keys()
        for name, field in before.vision.items():
            assert torch.equal(field, after.vision[name]), name


def test_a_target_with_a_picture_token_is_refused(any_mini: VLM) -> None:
    for token in any_mini.placeholder_ids:
        with pytest.raises(ValueError, match="an answer must not contain picture tokens"):
            tokenize_answer(any_mini, f"a {any_mini.processor.tokenizer.convert_ids_to_tokens(token)}")


@torch.no_grad()
def test_logits_are_those_that_were_pinned(any_mini: VLM, request: pytest.FixtureRequest) -> None:
    """A new transformers that computes something else shows here. `python tests/models/test_families.py` pins anew."""
    name = request.node.callspec.params["any_mini"]
    pinned = json.loads(GOLDEN.read_text())
    ours = torch.cat([logits[-1, :6] for logits in _all_logits(any_mini)])
    assert ours.tolist() == pytest.approx(pinned["logits"][name], abs=2e-4), f"pinned with {pinned['transformers']}"


def _pin() -> None:
    with torch.no_grad():
        rows = {name: torch.cat([row[-1, :6] for row in _all_logits(miniature(name))]).tolist() for name in ALL}
    rounded = {name: [round(value, 5) for value in values] for name, values in rows.items()}
    lines = ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in rounded.items())
    GOLDEN.write_text(f'{{"transformers": "{transformers.__version__}", "logits": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    _pin()
