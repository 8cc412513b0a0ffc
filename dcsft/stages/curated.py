"""The curated subset as files that ms-swift, LLaMA-Factory and TRL train on.

ms_swift/data.jsonl           messages and images; `swift sft --dataset data.jsonl` from within the folder
llama_factory/data.json       the same as sharegpt, with its dataset_info.json; `dataset_dir` is the folder
trl/data.parquet              prompt, completion, images (inside) and solution; `load_dataset("parquet", ...)`
images/                       the pictures of the first two, losslessly
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dcsft.records import Difficulty, Example, Picture
from dcsft.tasks.task import Task

_ROW_GROUP = 128
_ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def write(folder: Path, task: Task, difficulties: Mapping[str, Difficulty], name: str, resize: bool) -> int:
    """Writes the training examples that `difficulties` names into `folder`; returns how many.

    The folder is written whole or not at all; what was there is replaced.

    Args:
        difficulties: of the chosen examples, by id.
        name: of the data set, where a format wants one.
        resize: save pictures at the size in which boxes count their pixels.
    """
    chosen = [example for example in task.examples("train") if example.id in difficulties]
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("images", "ms_swift", "llama_factory", "trl"):
        (partial / part).mkdir(parents=True)
    rows = [_row(partial, task, example, resize) for example in chosen]
    lines = (json.dumps(_with_images(row, "../"), ensure_ascii=False) for row in rows)
    (partial / "ms_swift" / "data.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    factory = [_with_images(row, "../") for row in rows]
    text = json.dumps(factory, ensure_ascii=False, indent=1)
    (partial / "llama_factory" / "data.json").write_text(text, encoding="utf-8")
    columns = {"messages": "messages", "images": "images"}
    tags = {**_ROLES, "system_tag": "system"}
    info = {name: {"file_name": "data.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (partial / "llama_factory" / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    _write_trl(partial, rows, [difficulties[example.id] for example in chosen], [example.id for example in chosen])
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return len(chosen)


def _row(folder: Path, task: Task, example: Example, resize: bool) -> dict[str, Any]:
    """Messages in which <image> stands for each picture, and the pictures' files in that order."""
    messages, images = [], []
    for message in task.prompt(example):
        words = []
        for piece in message.content:
            words.append("<image>" if isinstance(piece, Picture) else piece)
            if isinstance(piece, Picture):
                images.append(_save(folder, piece, example, resize))
        messages.append({"role": message.role, "content": "".join(words)})
    messages.append({"role": "assistant", "content": task.target(example)})
    return {"messages": messages, "images": images}


def _save(folder: Path, picture: Picture, example: Example, resize: bool) -> str:
    """The picture's path within the folder; equal pictures are saved once."""
    size = f"{example.frame.width}x{example.frame.height}" if resize and example.frame is not None else ""
    name = f"images/{hashlib.sha256(f'{picture.id} {size}'.encode()).hexdigest()[:16]}.png"
    if not (folder / name).exists():
        image = picture.open()
        if resize and example.frame is not None:
            image = image.resize((example.frame.width, example.frame.height), Image.Resampling.BICUBIC)
        image.save(folder / name)
    return name


def _with_images(row: Mapping[str, Any], above: str) -> dict[str, Any]:
    return {**row, "images": [above + name for name in row["images"]]}


def _write_trl(folder: Path, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], ids: Sequence[str]) -> None:
    """Parquet as the library `datasets` writes it: pictures inside, and the schema's notes that say they are."""
    import pyarrow as pa
    from pyarrow import parquet

    text = {"dtype": "string", "_type": "Value"}
    turns = [{"role": text, "content": text}]
    features: dict[str, Any] = {"id": text, "difficulty": text, "prompt": turns, "completion": turns, "solution": text}
    features["images"] = [{"_type": "Image"}]
    turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    fields = [("id", pa.string()), ("difficulty", pa.string()), ("prompt", turn), ("completion", turn)]
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([*fields, ("solution", pa.string()), ("images", image)], metadata=notes)
    with parquet.ParquetWriter(folder / "trl" / "data.parquet", schema) as writer:
        for start in range(0, len(rows), _ROW_GROUP):
            some = slice(start, start + _ROW_GROUP)
            records = [_trl_row(folder, *one) for one in zip(rows[some], kinds[some], ids[some], strict=True)]
            writer.write_table(pa.Table.from_pylist(records, schema))


def _trl_row(folder: Path, row: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """TRL puts a message's pictures before its text itself, so the text has no <image>."""
    *prompt, answer = row["messages"]
    asked = [{**turn, "content": turn["content"].replace("<image>", "")} for turn in prompt]
    images = [{"bytes": (folder / file).read_bytes(), "path": None} for file in row["images"]]
    record = {"id": name, "difficulty": kind, "prompt": asked, "completion": [answer]}
    return {**record, "solution": answer["content"], "images": images}
