"""distill: ask a teacher the training questions and keep the answers that verify, as targets for SFT.

The teacher is any model behind an OpenAI-compatible server; it is asked what the student is asked. An answer is kept
if it is whole and the task's own judge calls it right. Every answer is appended to `answers.jsonl` when it comes, so a
run that is killed repeats only what was under way. `targets.jsonl` is what `task.targets` reads:

    python train.py task=mmk12 stage=distill engine=server engine.url=https://HOST/v1 engine.model=glm-4.5v
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dcsft.artefacts import write_json
from dcsft.generation.client import Client, Refused, chat_of
from dcsft.records import Example, Message
from dcsft.seeding import seed_of
from dcsft.stages.progress import bar
from dcsft.tasks.task import Task

TARGETS, ANSWERS, SUMMARY = "targets.jsonl", "answers.jsonl", "summary.json"

_REFUSALS = 5
"""So many questions refused and none answered: it is the server, not the questions."""

Row = dict[str, Any]


class _Answers:
    """The answers so far: a file of whole lines, one an answer, and their totals."""

    def __init__(self, path: Path) -> None:
        self.of: defaultdict[str, list[Row]] = defaultdict(list)
        self.totals: Counter[str] = Counter()
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # a kill may have cut the last line
        for line in whole.splitlines():
            self._count(json.loads(line))
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))

    def _count(self, row: Row) -> None:
        self.of[row["id"]].append(row)
        self.totals["answers"] += 1
        self.totals["verified"] += _right(row)  # a question that has one is not asked again
        self.totals["unjudged"] += row["correct"] is None
        self.totals["cut"] += not row["finished"]
        self.totals["tokens_in"] += row["tokens_in"]
        self.totals["tokens_out"] += row["tokens_out"]

    def add(self, row: Row) -> None:
        """Keep an answer; a kill after this does not lose it."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._count(row)

    def verified(self, name: str) -> str | None:
        """The answer to a question that is whole and right."""
        return next((row["text"] for row in self.of[name] if _right(row)), None)

    def over(self, name: str, num_samples: int) -> bool:
        """Whether a question is not asked again: answered, asked often enough, or beyond our judge."""
        rows = self.of[name]
        return len(rows) >= num_samples or any(_right(row) or row["correct"] is None for row in rows)

    def close(self) -> None:
        self._file.close()


def _right(row: Row) -> bool:
    return bool(row["correct"]) and row["finished"]


def _text(message: Mapping[str, Any]) -> str:
    """The teacher's answer; reasoning that its server has split off is put back where it was."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    content = message.get("content") or ""
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{content.strip()}" if reasoning else content


def _prompt(task: Task, example: Example, system: str | None) -> list[Message]:
    messages = task.prompt(example)
    if system is None:
        return messages
    return [Message("system", (system,)), *(message for message in messages if message.role != "system")]


def _totals(totals: Mapping[str, int], price: Sequence[float] | None) -> str:
    """Tokens, and dollars where a price is known: of a million tokens in, and out."""
    tokens_in, tokens_out = totals["tokens_in"], totals["tokens_out"]
    said = f"{tokens_in / 1e6:.2f} M tokens in, {tokens_out / 1e6:.2f} M out"
    return said if price is None else f"{said}, ${(tokens_in * price[0] + tokens_out * price[1]) / 1e6:.2f}"


def run(
    folder: Path,
    task: Task,
    client: Client,
    settings: Mapping[str, Any],
    seed: int,
    price: Sequence[float] | None,
    console: Console,
) -> None:
    """Ask for every example of `settings["splits"]`, up to `num_samples` times each, into `folder`.

    Raises:
        ValueError: the server cannot be used, or no answer verifies; what was answered is kept.
    """
    examples = [example for split in settings["splits"] for example in task.examples(split)]
    answers, refused, done = _Answers(folder / ANSWERS), [], 0

    async def ask(example: Example, sample: int) -> Row:
        body = {
            "messages": chat_of(_prompt(task, example, settings["system"])),
            "temperature": settings["temperature"],
            "max_tokens": settings["max_new_tokens"],
            "seed": seed_of("distill", seed, example.id, sample) % 2**31,
        }
        answer = await client.ask(f"{example.id}#{sample}", body)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = _text(choice["message"])
        score = task.score(example, text)
        return {
            "id": example.id,
            "sample": sample,
            "text": text,
            "correct": score.correct,
            "answer": score.answer,
            "finished": choice.get("finish_reason") == "stop",
            "tokens_in": usage.get("prompt_tokens", 0),
            "tokens_out": usage.get("completion_tokens", 0),
        }

    with bar(console, "distill", len(examples)) as shown:

        async def until_verified(example: Example) -> None:
            nonlocal done
            try:
                while not answers.over(example.id, settings["num_samples"]):
                    answers.add(await ask(example, len(answers.of[example.id])))
            except Refused:
                refused.append(example.id)
                if not answers.totals["answers"] and len(refused) >= min(_REFUSALS, len(examples)):
                    raise
            done += 1
            share = answers.totals["verified"] / done
            shown.advance(done, f"verified {share:.0%}, {_totals(answers.totals, price)}")

        try:
            client.each(until_verified, examples)
        finally:
            answers.close()
    texts = {example.id: answers.verified(example.id) for example in examples}
    kept = [{"id": name, "text": text} for name, text in texts.items() if text is not None]
    if not kept:
        raise ValueError(
            f"the teacher must answer some questions right, got none of {len(examples)}; see {folder / ANSWERS}, and "
            "try another engine.model, distill.system or a larger distill.max_new_tokens"
        )
    (folder / TARGETS).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    write_json(folder / SUMMARY, {"questions": len(examples), "refused": len(refused), **answers.totals})


def sentence(folder: Path, price: Sequence[float] | None) -> str:
    """What a finished folder says of itself."""
    totals = json.loads((folder / SUMMARY).read_text())
    said = [f"{totals['verified']} of {totals['questions']} questions have a verified answer"]
    reasons = {"unjudged": "cannot be judged", "refused": "were refused by the server", "cut": "answers were cut"}
    said += [f"{totals[name]} {words}" for name, words in reasons.items() if totals[name]]
    return f"{', '.join(said)} ({_totals(totals, price)}); train on them: task.targets={folder / TARGETS}"
