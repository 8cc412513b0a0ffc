"""publish: the labels as a data set that others can use, with its card; and the curated subset for other trainers.

`labels/` is what goes to the Hub: labels, sampled answers, recipe and card, and no picture, which are mostly not ours
to give. `curated/<arm>/` stays here. Nothing is sent unless `publish.repo` is set.

    python train.py stage=publish subset=em
    python train.py stage=publish subset=em publish.repo=OWNER/NAME
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from dcsft.artefacts import Artefact, write_json
from dcsft.records import DIFFICULTIES
from dcsft.stages.label import LABELS, ROLLOUTS

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""The Hub's own words for how many rows there are."""

_COLUMNS = {
    LABELS: {
        "id": "the example, by its place in the task",
        "num_samples": "answers that could be judged",
        "num_correct": "right ones among them; empty: not known",
        "num_unjudged": "answers that could not be judged",
        "difficulty": "easy: all right; hard: none; medium: the rest; empty: nothing could be judged",
        "pass_rate": "num_correct / num_samples",
        "pass_rate_low": "lower end of the pass rate's 95 % interval (Beta posterior, Jeffreys' prior)",
        "pass_rate_high": "its upper end",
        "target": "the answer that the judge compares with",
        "noisy": "whether the target is known to be wrong, which only synthetic data knows",
    },
    ROLLOUTS: {
        "id": "the example",
        "sample": "number of the answer, from 0",
        "text": "the answer",
        "token_ids": "its tokens",
        "num_tokens": "how many they are",
        "logp": "their log-probability at the sampling temperature, natural logarithm",
        "finished": "false: cut at the token limit",
        "correct": "the judge's verdict; empty: it cannot be judged",
        "reward": "the judge's reward",
        "answer": "what the judge read out of the text",
    },
}


class Hub(Protocol):
    """What is used of huggingface_hub.HfApi."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> object:
        """Makes the repository if it is not there."""

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> object:
        """Sends a folder as one commit."""


def write_labels(folder: Path, label_folder: Path, artefact: Artefact, facts: Mapping[str, Any]) -> None:
    """Writes labels, answers, recipe and card into `folder`, whole or not at all; what was there is replaced.

    Args:
        label_folder: of the label stage.
        artefact: of the label stage; its inputs, and its parents', say how the labels were made.
        facts: task, model, judge and sampling, as the card names them.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    tables = [name for name in (LABELS, ROLLOUTS) if (label_folder / name).exists()]
    for name in tables:
        shutil.copy(label_folder / name, partial / "data" / name)
    write_json(partial / "recipe.json", _recipe(artefact))
    hashes = {name: hashlib.sha256((partial / "data" / name).read_bytes()).hexdigest() for name in tables}
    card = _card(pd.read_parquet(partial / "data" / LABELS), tables, hashes, artefact, facts)
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _recipe(artefact: Artefact) -> dict[str, Any]:
    parents = {name: _recipe(parent) for name, parent in artefact.parents.items()}
    return {**artefact.inputs, "key": artefact.key, "parents": parents}


def _card(
    labels: pd.DataFrame, tables: list[str], hashes: Mapping[str, str], artefact: Artefact, facts: Mapping[str, Any]
) -> str:
    """README.md as the Hub reads it: a YAML header, then Markdown."""
    counts = labels["difficulty"].value_counts()
    total, title = len(labels), f"Difficulty of {facts['task']} for {facts['model']}"
    size = next(words for most, words in _SIZES if total < most)
    configs = [line for name in tables for line in _header_config(name)]
    header = ["---", f"pretty_name: {title}", "tags: [dcsft, difficulty, vision-language]"]
    header += [f"size_categories: [{size}]", "configs:", *configs, "---"]
    rows = [(kind, int(counts.get(kind, 0))) for kind in DIFFICULTIES]
    rows.append(("not judged", total - sum(count for _, count in rows)))
    lines = [f"# {title}", ""]
    lines += [f"How often {facts['model']}, after its cold start, answers each training example right: labels"]
    lines += ["of difficulty for curated fine-tuning (DC-SFT, arXiv 2602.10815), made with dcsft.", ""]
    lines += ["| difficulty | examples | share |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count:,} | {100 * count / total:.1f} % |" for kind, count in rows if count]
    lines += ["", "## How they were made", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [f"- key of the labelling: `{artefact.key}`; everything that determines it is in `recipe.json`"]
    lines += [f"- SHA-256 of `data/{name}`: `{digest}`" for name, digest in hashes.items()]
    lines += ["", "A few samples say little about one example: see the interval of its pass rate.", ""]
    for name in tables:
        lines += [f"## data/{name}", "", "| column | meaning |", "| --- | --- |"]
        lines += [f"| `{column}` | {meaning} |" for column, meaning in _COLUMNS[name].items()]
        lines += [""]
    lines += ["Pictures are not part of this data set; `id` says which they are.", ""]
    return "\n".join([*header, "", *lines])


def _header_config(name: str) -> list[str]:
    lines = [f"- config_name: {Path(name).stem}", f"  data_files: data/{name}"]
    return [*lines, "  default: true"] if name == LABELS else lines


def push(folder: Path, repo: str, private: bool, hub: Hub) -> str:
    """Sends `folder` to the data set `repo`; returns its address."""
    hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    key = json.loads((folder / "recipe.json").read_text())["key"]
    hub.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message=f"Labels {key}")
    return f"https://huggingface.co/datasets/{repo}"
