"""Class-named folders: every file is used, or counted with the reason."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcsft.rewards.exact import Exact
from dcsft.tasks.folder import Folder

Writer = Callable[..., Path]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


class Data:
    """Three small sets: 4 cats and 4 dogs to train on; 2 cats and 2 dogs; and 2 cats and 2 zebras as "sketches"."""

    def __init__(self, root: Path, write_classes: Writer) -> None:
        self.train = write_classes(root / "train", {"cat": 4, "dog": 4})
        self.id = write_classes(root / "test", {"cat": 2, "dog": 2})
        self.sketches = write_classes(root / "sketches", {"cat": 2, "zebra": 2})

    def task(self, num_cold_start: int = 4, seed: int = 0, ood: Mapping[str, Path | None] | None = None) -> Folder:
        folders = {"sketches": self.sketches} if ood is None else ood
        names = {name: None if path is None else str(path) for name, path in folders.items()}
        return Folder(
            Exact(), "What is this?", seed, str(self.train), str(self.id), names, num_cold_start, square=False
        )


@pytest.fixture
def data(tmp_path: Path, write_classes: Writer) -> Data:
    return Data(tmp_path, write_classes)


def ids(task: Folder, split: str) -> set[str]:
    return {example.id for example in task.examples(split)}


def opened(task: Folder, example_id: str) -> Image.Image:
    rows = [row for split in ("cold_start", "train", *task.tests) for row in task.examples(split)]
    return next(row for row in rows if row.id == example_id).pictures[0].open()


def test_ids_are_paths_and_targets_are_folder_names(data: Data, write_picture: Writer) -> None:
    write_picture(data.id / "cat" / "2024" / "may" / "deep.JPeG")
    write_picture(data.id / "hot__dog_" / "1.PNG")
    write_picture(data.id / "Cafe\u0301" / "1.png")  # as macOS stores an accent
    rows = {row.id: row.target for row in data.task().examples("id")}
    assert rows == {
        "id/Cafe\u0301/1.png": "Caf\u00e9",
        "id/cat/0.png": "cat",
        "id/cat/1.png": "cat",
        "id/cat/2024/may/deep.JPeG": "cat",
        "id/dog/0.png": "dog",
        "id/dog/1.png": "dog",
        "id/hot__dog_/1.PNG": "hot dog",
    }


def test_hidden_files_and_other_files_are_not_looked_at(data: Data, write_picture: Writer) -> None:
    write_picture(data.id / "cat" / ".hidden.png")
    write_picture(data.id / "cat" / ".thumbnails" / "1.png")
    write_picture(data.id / ".cache" / "1.png")
    (data.id / "cat" / "notes.txt").write_text("a cat")
    task = data.task()
    assert ids(task, "id") == {"id/cat/0.png", "id/cat/1.png", "id/dog/0.png", "id/dog/1.png"}
    assert task.dropped == {}


def test_links_are_followed_once(data: Data, tmp_path: Path, write_picture: Writer) -> None:
    write_picture(tmp_path / "elsewhere" / "a.png")
    (data.id / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (data.id / "cat" / "round").symlink_to(data.id / "cat")
    assert {i for i in ids(data.task(), "id") if "cat" in i} == {"id/cat/0.png", "id/cat/1.png", "id/cat/linked/a.png"}


def test_exif_orientation_is_honoured(data: Data) -> None:
    # orientation 6: turn by 90 degrees clockwise to see it upright. Red left, blue right becomes red top, blue bottom.
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(data.id / "cat" / "phone.jpg", exif=exif, quality=95)
    image = opened(data.task(), "id/cat/phone.jpg")
    assert (image.size, image.mode) == ((16, 32), "RGB")
    top, bottom = image.getpixel((8, 4)), image.getpixel((8, 27))
    assert abs(np.subtract(top, RED)).max() < 8  # JPEG is not exact
    assert abs(np.subtract(bottom, BLUE)).max() < 8


def test_transparency_is_white_and_colours_are_rgb(data: Data) -> None:
    cat = data.id / "cat"
    # half of 255 (alpha 128) black on white is 255 - 128 = 127
    rgba = np.array([[(*GREEN, 255), (0, 0, 0, 0), (0, 0, 0, 128)]], np.uint8)
    Image.fromarray(rgba).save(cat / "alpha.png")
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    palette.save(cat / "palette.gif", transparency=1)
    Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], np.uint16)).save(cat / "deep.png")
    Image.fromarray(np.array([[0, 100, 255]], np.uint8)).save(cat / "grey.bmp")
    task = data.task()
    expected = {
        "alpha.png": [GREEN, WHITE, (127, 127, 127)],
        "palette.gif": [RED, WHITE, BLUE],
        "deep.png": [(0, 0, 0), (128, 128, 128), WHITE],  # the high byte of 16 bits
        "grey.bmp": [(0, 0, 0), (100, 100, 100), WHITE],
    }
    for name, row in expected.items():
        image = opened(task, f"id/cat/{name}")
        assert image.mode == "RGB"
        assert [image.getpixel((x, 0)) for x in range(3)] == row, name
    assert task.dropped == {}


def test_a_file_that_cannot_be_read_is_counted_and_listed(data: Data, write_picture: Writer) -> None:
    cat = data.train / "cat"
    broken = []
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.tif", "cut.gif"):
        path = write_picture(cat / name, size=(200, 150))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
        broken.append(path)
    flipped = write_picture(cat / "flipped.png", size=(200, 150))
    content = bytearray(flipped.read_bytes())
    content[-13] ^= 0xFF  # the checksum of the pixels, before the 12 bytes of the closing chunk: decoding ignores it
    flipped.write_bytes(content)
    (cat / "text.jpg").write_text("not a picture")
    (cat / "nothing.png").touch()
    (cat / "dangling.png").symlink_to(cat / "gone.png")
    Image.fromarray(np.ones((2, 2), np.float32)).save(cat / "float.tiff")
    broken += [flipped, cat / "text.jpg", cat / "nothing.png", cat / "dangling.png", cat / "float.tiff"]
    task = data.task()
    assert task.dropped == {"train: cannot be read": 10}
    assert set(task.dropped_paths["train: cannot be read"]) == {str(path) for path in broken}
    assert ids(task, "train") | ids(task, "cold_start") == {
        f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)
    }


def test_the_end_of_a_jpeg_is_missed_although_its_header_is_whole(data: Data, write_picture: Writer) -> None:
    path = write_picture(data.sketches / "cat" / "cut.jpg", size=(640, 480))
    path.write_bytes(path.read_bytes()[:-2000])
    with Image.open(path) as image:
        image.verify()  # does not notice
    assert data.task().dropped == {"sketches: cannot be read": 1}


def test_a_decompression_bomb_is_refused(data: Data, write_picture: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(data.train / "cat" / "bomb.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow refuses twice as many; the others have 24 x 16 = 384
    task = data.task()
    assert task.dropped == {"train: too many pixels": 1}
    assert task.dropped_paths["train: too many pixels"] == (str(data.train / "cat" / "bomb.png"),)


def test_an_empty_class_folder_and_loose_pictures_are_counted(data: Data, write_picture: Writer) -> None:
    (data.train / "fish").mkdir()
    write_picture(data.id / "loose.png")
    task = data.task()
    assert task.dropped == {"train: class folder without pictures": 1, "id: not in a class folder": 1}
    assert task.classes == {"cat", "dog"}


def test_a_test_picture_that_is_also_in_train_is_dropped_from_the_test(data: Data) -> None:
    shutil.copy(data.train / "cat" / "0.png", data.id / "cat" / "leak.png")
    shutil.copy(data.train / "dog" / "1.png", data.sketches / "zebra" / "leak.png")
    task = data.task()
    assert task.dropped == {"id: also in train": 1, "sketches: also in train": 1}
    assert {"train/cat/0.png", "train/dog/1.png"} <= ids(task, "train") | ids(task, "cold_start")
    assert "id/cat/leak.png" not in ids(task, "id")


def test_a_copy_within_train_is_dropped(data: Data) -> None:
    shutil.copy(data.train / "cat" / "0.png", data.train / "dog" / "9.png")
    task = data.task()
    assert task.dropped == {"train: repeated": 1}
    assert task.dropped_paths["train: repeated"] == (str(data.train / "dog" / "9.png"),)


def test_the_classes_take_turns_in_the_cold_start(data: Data, write_classes: Writer) -> None:
    # 4 cats, 4 dogs, 2 owls; each keeps one, so the owls give 1 and the rest comes from cats and dogs: 3 + 2 + 1 = 6
    write_classes(data.train, {"owl": 2})
    counts = {n: Counter(row.target for row in data.task(n).examples("cold_start")) for n in (3, 6, 7)}
    assert counts[3] == {"cat": 1, "dog": 1, "owl": 1}
    assert sorted(counts[6].values()) == [1, 2, 3]
    assert counts[6]["owl"] == 1
    assert counts[7] == {"cat": 3, "dog": 3, "owl": 1}
    assert {row.target for row in data.task(7).examples("train")} == {"cat", "dog", "owl"}


def test_the_seed_draws_the_cold_start_and_no_test(data: Data) -> None:
    tasks = [data.task(seed=seed) for seed in range(8)]
    # two of four cats and two of four dogs: 36 cold starts, so eight equal ones are no chance
    assert len({frozenset(ids(task, "cold_start")) for task in tasks}) > 1
    assert data.task(seed=3).examples("cold_start") == tasks[3].examples("cold_start")
    for task in tasks:
        assert not ids(task, "cold_start") & ids(task, "train")
        assert len(ids(task, "cold_start") | ids(task, "train")) == 8
        assert task.identity("id") == tasks[0].identity("id")
        assert task.examples("sketches") == tasks[0].examples("sketches")
    assert tasks[0].identity("train") != tasks[1].identity("train")


def test_ood_rows_are_grouped_by_whether_training_has_their_class(data: Data, write_picture: Writer) -> None:
    write_picture(data.sketches / "CAT" / "9.png")
    task = data.task()
    assert {row.target: row.group for row in task.examples("sketches")} == {
        "CAT": "seen",
        "cat": "seen",
        "zebra": "novel",
    }
    assert all(row.group is None for split in ("cold_start", "train", "id") for row in task.examples(split))


def test_ood_sets_keep_the_order_of_the_configuration(data: Data) -> None:
    assert data.task(ood={"night": data.sketches, "fog": data.sketches}).tests == ("id", "night", "fog")
    assert data.task(ood={}).tests == ("id",)


def test_picture_ids_follow_the_content(data: Data, write_picture: Writer) -> None:
    shutil.copy(data.id / "cat" / "0.png", data.id / "cat" / "copy.png")
    before = {row.id: row.pictures[0].id for row in data.task().examples("id")}
    assert before["id/cat/0.png"] == before["id/cat/copy.png"] != before["id/cat/1.png"]
    write_picture(data.id / "cat" / "0.png", "edited")
    after = {row.id: row.pictures[0].id for row in data.task().examples("id")}
    assert {name for name in before if before[name] != after[name]} == {"id/cat/0.png"}


def test_identity_follows_content_and_names_but_not_the_place(
    data: Data, tmp_path: Path, write_picture: Writer
) -> None:
    first = data.task()
    data.id = data.id.rename(tmp_path / "moved")
    assert data.task().identity("id") == first.identity("id")
    write_picture(data.id / "cat" / "0.png", "edited")
    second = data.task()
    assert second.identity("id") != first.identity("id")
    assert second.identity("train") == first.identity("train")
    (data.id / "cat" / "1.png").rename(data.id / "dog" / "7.png")
    assert data.task().identity("id") != second.identity("id")


def _refused(data: Data, message: str, num_cold_start: int = 4, ood: Mapping[str, Path | None] | None = None) -> None:
    with pytest.raises(ValueError, match=message):
        data.task(num_cold_start, ood=ood)


@pytest.mark.parametrize("name", ["train", "id", "cold_start"])
def test_an_ood_set_with_the_name_of_another_split_is_refused(data: Data, name: str) -> None:
    _refused(data, rf"^task\.ood must be named otherwise than .*, got '{name}'; rename", ood={name: data.sketches})


@pytest.mark.parametrize(("train", "id", "name"), [(None, "test", "train"), ("train", None, "id")])
def test_null_is_refused(data: Data, train: str | None, id: str | None, name: str) -> None:
    folders = {"train": str(data.train), "test": str(data.id), None: None}
    with pytest.raises(ValueError, match=rf"^task\.{name} must be a folder .*, got None; set task\.{name}=DIR"):
        Folder(Exact(), "What is this?", 0, folders[train], folders[id], None, 4, square=False)


def test_an_ood_set_without_a_folder_is_refused(data: Data) -> None:
    _refused(data, r"^task\.ood\.fog must be a folder .*, got None; set task\.ood\.fog=DIR", ood={"fog": None})


def test_folders_without_data_are_refused(data: Data, tmp_path: Path, write_picture: Writer) -> None:
    _refused(data, r"^task\.ood\.x must be .*, got '.*nowhere'; there is no", ood={"x": tmp_path / "nowhere"})
    flat = write_picture(tmp_path / "flat" / "1.png").parent
    _refused(data, r"^task\.ood\.x must be .*, got '.*flat'; make it DIR/class/picture", ood={"x": flat})
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    _refused(data, r"^task\.ood\.x must be .* hold pictures, got '.*bare'; known endings", ood={"x": tmp_path / "bare"})
    (tmp_path / "bad" / "cat").mkdir(parents=True)
    (tmp_path / "bad" / "cat" / "1.png").write_text("text")
    _refused(data, r"^task\.ood\.x must be .* all were dropped: .*cannot be read': 1", ood={"x": tmp_path / "bad"})
    _refused(data, r"^task\.ood\.x must be .* all were dropped: .*also in train': 8", ood={"x": data.train})
    write_picture(tmp_path / "nameless" / "__" / "1.png")
    _refused(data, r"class folder of task\.ood\.x must be a name, got '__'; rename", ood={"x": tmp_path / "nameless"})


@pytest.mark.parametrize("num_cold_start", [0, 7, 400])
def test_a_cold_start_that_does_not_fit_is_refused_with_what_would(data: Data, num_cold_start: int) -> None:
    # 8 pictures of 2 classes, of which each keeps one for training: 6
    message = rf"^task\.num_cold_start must be between 1 and 6, .*, got {num_cold_start}; set it to 6 or fewer"
    _refused(data, message, num_cold_start)
    assert len(data.task(6).examples("train")) == 2


def test_a_square_picture_is_padded_with_white_and_is_another_picture(tmp_path: Path, write_classes: Writer) -> None:
    data = Data(tmp_path, write_classes)
    plain = data.task()
    square = Folder(Exact(), "What is this?", 0, str(data.train), str(data.id), None, 4, square=True)
    name = plain.examples("id")[0].id
    before, after = opened(plain, name), opened(square, name)
    side = max(before.size)
    assert after.size == (side, side)
    assert plain.identity("id") != square.identity("id")
