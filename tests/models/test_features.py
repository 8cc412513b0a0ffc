"""The feature cache on disk: the same bits, read instead of computed, shared by processes, never in the way."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
import torch
from miniatures import ask, miniature, picture

from dcsft.models.features import FeatureCache
from dcsft.models.render import PictureFeatures, append_completions, completion_logits, render_prompts
from dcsft.models.vlm import VLM
from dcsft.records import Picture

SIZES = ((56, 56), (112, 56), (56, 56), (168, 168))
PICTURES = [picture(f"cached-{i}", *size) for i, size in enumerate(SIZES)]


def _closed(pictures: list[Picture]) -> list[Picture]:
    """The same pictures, which must not be opened again."""

    def refuse() -> None:
        raise AssertionError("a picture whose features are known was opened")

    return [Picture(one.id, refuse) for one in pictures]


def _same_bits(some: list[PictureFeatures], others: list[PictureFeatures]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(grid, other_grid) and torch.equal(tensor.view(torch.uint8), other.view(torch.uint8))
        for (tensor, grid), (other, other_grid) in zip(some, others, strict=True)
    )


def _num_rows(cache: FeatureCache) -> int:
    with sqlite3.connect(cache.path) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM features").fetchone()
    database.close()
    return count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_come_back_bit_for_bit_without_opening_the_pictures(tmp_path: Path, dtype: torch.dtype) -> None:
    vlm = miniature("qwen2_5_vl")
    vlm.model.to(dtype)
    computed = FeatureCache(vlm, tmp_path, 1)(PICTURES)
    assert {tensor.dtype for tensor, _ in computed} == {dtype}
    assert [tuple(tensor.shape) for tensor, _ in computed] == [(4, 48), (8, 48), (4, 48), (36, 48)]
    again = FeatureCache(vlm, tmp_path, 1)(_closed(PICTURES))
    assert _same_bits(computed, again)


def test_features_stand_in_the_order_asked_for_also_when_some_are_known_and_some_repeat(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    one_by_one = [FeatureCache(vlm, tmp_path / str(i), 1)([PICTURES[i]])[0] for i in range(4)]
    cache = FeatureCache(vlm, tmp_path, 1)
    cache([PICTURES[2]])
    asked = [3, 2, 0, 3, 1, 2]
    for feature, i in zip(cache([PICTURES[i] for i in asked]), asked, strict=True):
        assert torch.equal(feature[1], one_by_one[i][1])
        torch.testing.assert_close(feature[0], one_by_one[i][0], rtol=0, atol=1e-5)
    assert _num_rows(cache) == 4


def test_cached_features_give_the_logits_of_the_pixels(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl_windowed")
    cache = FeatureCache(vlm, tmp_path, 1)
    conversations = [ask(PICTURES[3], "What is this?"), ask(PICTURES[0], "and", PICTURES[1])]
    with torch.no_grad():
        logits = [
            completion_logits(vlm, append_completions(vlm, render_prompts(vlm, conversations, source), [[5], [6]]))[0]
            for source in (None, cache, cache)
        ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
    assert torch.equal(logits[1], logits[2])


def test_a_full_cache_computes_and_keeps_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcsft.models.features._CHUNK", 1)
    vlm = miniature("qwen2_5_vl")
    features = {one.id: FeatureCache(vlm, tmp_path / "large", 1)([one])[0] for one in PICTURES}
    # An empty file has 3 pages of 4096 bytes, and a 168 x 168 picture 36 x 48 x 4 = 6912 bytes, so it goes over 13 kB.
    cache = FeatureCache(vlm, tmp_path / "small", 13e-6)
    order = [PICTURES[3], PICTURES[0], PICTURES[1]]
    for _ in range(2):
        assert _same_bits(cache(order), [features[one.id] for one in order])
    assert _num_rows(cache) == 1
    cache(_closed([PICTURES[3]]))
    with pytest.raises(AssertionError, match="was opened"):
        cache(_closed([PICTURES[0]]))


def test_with_no_room_at_all_features_are_still_right(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path / "none", 0)
    assert _same_bits(cache(PICTURES), FeatureCache(vlm, tmp_path, 1)(PICTURES))
    assert _num_rows(cache) == 0


@pytest.mark.parametrize("damage", ["garbage", "page"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    vlm = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path, 1)
    before = cache(PICTURES)
    cache._database.close()
    content = bytearray(cache.path.read_bytes())
    start = 0 if damage == "garbage" else 4096  # the header, or all after the first page, where the table's root is
    content[start:] = b"\xa5" * (len(content) - start)
    cache.path.write_bytes(content)
    again = FeatureCache(vlm, tmp_path, 1)
    assert _same_bits(again(PICTURES), before)
    assert _same_bits(again(_closed(PICTURES)), before)


def test_a_locked_file_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path, 1)
    cache(PICTURES)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        cache._start_over(sqlite3.OperationalError("database is locked"))
    assert _num_rows(cache) == 4


def test_a_file_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path, 1)
    cache(PICTURES[:1])
    cache._database.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk
    cache._database.execute("PRAGMA query_only = ON")
    assert len(cache(PICTURES)) == 4
    assert _num_rows(cache) == 1


def test_other_vision_weights_have_their_own_file(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    first = FeatureCache(vlm, tmp_path, 1)
    first(PICTURES)
    with torch.no_grad():
        vlm.visual.blocks[0].attn.qkv.bias[0] += 1
    second = FeatureCache(vlm, tmp_path, 1)
    assert second.path != first.path
    assert not _same_bits(first(_closed(PICTURES)), second(PICTURES))


def test_the_meter_counts_a_picture_once(tmp_path: Path) -> None:
    vlm = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path, 1)
    for _ in range(2):
        cache(PICTURES)
        assert vlm.meter.patches == 16 + 32 + 16 + 144


def _write(folder: Path, first: int, barrier: object) -> None:
    cache = FeatureCache(miniature("qwen2_5_vl"), folder, 1)
    barrier.wait()
    for i in range(first, first + 60, 3):
        cache([picture(f"shared-{number}") for number in range(i, i + 3)])


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # a fresh process would import torch for ten seconds
    barrier = context.Barrier(2)
    writers = [context.Process(target=_write, args=(tmp_path, first, barrier)) for first in (0, 30)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    vlm: VLM = miniature("qwen2_5_vl")
    cache = FeatureCache(vlm, tmp_path, 1)
    assert _num_rows(cache) == 90  # 0 to 59 and 30 to 89
    everything = [picture(f"shared-{number}") for number in range(90)]
    for (known, _), (fresh, _) in zip(
        cache(_closed(everything)), FeatureCache(vlm, tmp_path / "fresh", 1)(everything), strict=True
    ):
        torch.testing.assert_close(known, fresh, rtol=0, atol=1e-5)
