"""Run the stages of one configuration, reusing what the store holds, and leave a run folder.

The run folder has the resolved configuration, the log, `results.json`, a page, and links to the stages it used.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.logging import RichHandler

from dcsft import stopping
from dcsft.artefacts import Artefact, Store, locked, read_lines, write_json
from dcsft.config import build, check
from dcsft.data.subsets import select
from dcsft.records import DIFFICULTIES
from dcsft.stages.cells import cell_title, leaves, wanted
from dcsft.stages.curve import told_steps
from dcsft.stages.plan import arm_name, build_task, plain, plan, run_name
from dcsft.stages.results import results_of
from dcsft.tracking import Files, Tracker, WandB

log = logging.getLogger("dcsft")


class Run:
    """One configuration on its way through the stages."""

    def __init__(self, cfg: DictConfig, console: Console) -> None:
        """Check everything that can be checked before anything is computed.

        Raises:
            ValueError: the configuration cannot be run; one line a problem.
        """
        check(cfg)
        self.cfg, self.console = cfg, console
        self.task = build_task(cfg)
        for reason, count in self.task.dropped.items():
            console.print(f"[yellow]{count} examples dropped[/]: {reason}", highlight=False)
        self.plan = plan(cfg, self.task)
        self.outputs = Path(cfg.outputs).absolute()
        self.store = Store(self.outputs / "store", lambda line: console.print(line, highlight=False))
        self.folder = self.outputs / "runs" / run_name(cfg, self.plan)
        self.leaves = {name: self.outputs / path for name, path in leaves(cfg, self.plan).items()}
        self.folders: dict[str, Path] = {}
        self.computed: list[str] = []

    def __call__(self) -> Path | None:
        """Run up to the stage asked for; returns the path of `results.json` if it got that far."""
        if "train" in self.plan and self.store.find(self.plan["train"]) is None:
            build(plain(self.cfg.paradigm))  # refuses wrong arguments now, and not when labelling is done
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.cfg, self.folder / "config.yaml", resolve=True)
        handler = logging.FileHandler(self.folder / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        tracker = self._tracker()
        exit_code = 1
        if self.cfg.sweep is not None:
            self.console.rule(cell_title(self.cfg), align="left")
        try:
            for stage, artefact in wanted(self.cfg, self.plan).items():
                stopping.pause_point()
                self._stage(stage, artefact, tracker)
            if self.cfg.stage == "publish":
                self.leaves["labels"].parent.mkdir(parents=True, exist_ok=True)
                with locked(self.leaves["labels"].parent / ".lock"):  # the arms of a sweep publish the same labels
                    self._publish()
            elif self.cfg.stage == "export":
                self.console.print(f"export: {self._export()}", highlight=False, soft_wrap=True)
            elif not self.computed:
                self.console.print("nothing to compute: every stage was in the store")
            results = None
            if "results" in self.leaves:
                results = self._finish(tracker)
            exit_code = 0
            return results
        except BaseException as error:
            exit_code = 130 if isinstance(error, KeyboardInterrupt | SystemExit) else 1
            log.info("stopped", exc_info=True)
            raise
        finally:
            tracker.finish(exit_code)
            log.removeHandler(handler)
            handler.close()

    def show(self) -> None:
        """Say what the store has of this run and what would be computed; nothing is."""
        self.console.rule(cell_title(self.cfg), align="left")
        for stage, artefact in wanted(self.cfg, self.plan).items():
            said = "would be reused" if self.store.find(artefact) is not None else "would be computed"
            self.console.print(f"{stage:<11} {artefact.key}  {said}", highlight=False)
        for name, path in self.leaves.items():
            said = "is there" if path.exists() else "would be written"
            self.console.print(f"{name:<11} {path}  {said}", highlight=False, soft_wrap=True)

    def _tracker(self) -> Tracker:
        cfg = self.cfg
        if cfg.logger.name == "csv":
            return Files(self.folder)
        tags = [cfg.model.name, cfg.task["name"], cfg.subset.name, cfg.paradigm["name"]]
        tags += [f"hard_ratio={cfg.hard_ratio}", f"seed={cfg.seed}"]
        logger = cfg.logger
        group = logger.group or cfg.sweep
        name = f"{cfg.task['name']} {arm_name(cfg)} s{cfg.seed}"
        return WandB(self.folder, name, plain(cfg), logger.project, logger.entity, group, cfg.stage, tags)

    # --- one stage ----------------------------------------------------------------------------------------------

    def _stage(self, stage: str, artefact: Artefact, tracker: Tracker) -> None:
        def compute(partial: Path) -> None:
            log.info("%s: computing", artefact)
            write_json(partial / "env.json", {**_environment(), "trainer": plain(self.cfg.trainer)})
            self._build(stage, partial, lambda step, metrics: tracker.log(stage, step, metrics))

        start = time.perf_counter()
        folder, reused = self.store.get(artefact, compute)
        if not reused:
            self.computed.append(stage)
        took = "reused" if reused else f"{time.perf_counter() - start:.1f} s"
        log.info("%s: %s", artefact, took)
        self.console.print(f"[green]✓[/] {stage:<11} {artefact.key}  [dim]{took}[/]", highlight=False)
        self.folders[stage] = folder
        link = self.folder / f"{stage}.{os.getpid()}"  # replaced in one step: the same command may run twice at once
        link.symlink_to(os.path.relpath(folder, self.folder))
        link.replace(self.folder / stage)
        completions = folder / "completions.jsonl"
        if completions.exists():
            tracker.table("completions", pd.DataFrame(read_lines(completions)))
        for step, metrics in told_steps(folder):  # those of this process it knows; not those of earlier attempts
            tracker.log(stage, step, metrics)
        if stage == "label":
            self._show_labels(folder, tracker)
        elif stage == "distill":
            from dcsft.stages.distill import sentence

            said = sentence(folder, self.cfg.engine.usd_per_million_tokens)
            self.console.print(said, highlight=False, soft_wrap=True)
        elif stage == self.cfg.stage == "cold_start":
            self.console.print(f"model: {folder / 'model'}", highlight=False, soft_wrap=True)

    def _build(self, stage: str, folder: Path, on_step: Callable[[int, dict[str, float]], None]) -> None:
        """Compute one stage. Heavy imports come here, so that a run which reuses everything does without them."""
        if stage == "distill":
            self._distill(folder)
            return
        from dcsft.ranks import ALONE
        from dcsft.stages.bodies import Job, compute

        job = Job(self.cfg, stage, folder, dict(self.folders), self.store.root / "features")
        sampled = stage != "label" or self.cfg.label.name == "sampled"
        if self.cfg.trainer.strategy is not None and stage != "foundation" and sampled:
            from dcsft.stages.torchrun import compute_with_workers

            compute_with_workers(job, on_step)
        else:
            compute(job, self.task, self.console, ALONE, on_step)

    def _export(self) -> Path:
        from transformers.utils import logging as transformers_logging

        from dcsft.stages import export
        from dcsft.stages.bodies import trained

        transformers_logging.disable_progress_bar()
        export.run(self.leaves["export"], trained(self.cfg, self.folders, "cpu", "sdpa"))  # merging needs no GPU
        return self.leaves["export"]

    def _publish(self) -> None:
        from dcsft.stages import curated, label, publish
        from dcsft.stages.bodies import curation_of

        cfg, labels = self.cfg, self.leaves["labels"]
        facts = {
            "task": cfg.task["name"],
            "model": cfg.model.path or cfg.model.name,
            "judge": cfg.reward["_target_"],
            "labels": ", ".join(f"{name} {value}" for name, value in plain(cfg.label).items() if value is not None),
            "seed": cfg.seeds.label,
            "question": cfg.task["question"],
        }
        publish.write_labels(labels, self.folders["label"], self.plan["label"], facts)
        self.console.print(f"labels: {labels}", highlight=False, soft_wrap=True)
        if "curated" in self.leaves:
            target = self.leaves["curated"]
            chosen = select(label.read_labels(self.folders["label"]), curation_of(cfg))
            kinds = {one.example_id: one.difficulty for one in chosen}
            boxes = plain(cfg.task["boxes"]) if "boxes" in cfg.task else None
            resize = boxes is not None and boxes["frame"] == "resized"
            count = curated.write(target, self.task, kinds, target.name, resize)
            self.console.print(f"{count} curated examples: {target}", highlight=False, soft_wrap=True)
        elif cfg.paradigm["name"] == "rs":
            self.console.print("no curated examples: the answers of paradigm=rs are the model's own")
        if cfg.publish.repo is None:
            self.console.print("nothing was sent; add publish.repo=OWNER/NAME to share the labels")
            return
        from huggingface_hub import HfApi

        address = publish.push(labels, cfg.publish.repo, cfg.publish.private, HfApi())
        self.leaves["sent"].parent.mkdir(exist_ok=True)
        write_json(self.leaves["sent"], {"address": address})
        self.console.print(f"sent: {address}", highlight=False, soft_wrap=True)

    def _distill(self, folder: Path) -> None:
        from dcsft.stages import distill
        from dcsft.stages.asking import client_of

        settings, engine, seed = plain(self.cfg.distill), plain(self.cfg.engine), self.cfg.seeds.label
        price = engine["usd_per_million_tokens"]
        distill.run(folder, self.task, client_of(engine, None), settings, seed, price, self.console)

    # --- what people see ----------------------------------------------------------------------------------------

    def _show_labels(self, folder: Path, tracker: Tracker) -> None:
        labels = pd.read_parquet(folder / "labels.parquet")
        if self.cfg.stage == "label":
            from dcsft.report.figures import pass_rate_histogram

            self.console.print(pass_rate_histogram(folder / "labels.parquet"))
        tracker.table("labels", labels)
        counts = labels["difficulty"].value_counts()
        tracker.counts("difficulty", {kind: int(counts.get(kind, 0)) for kind in DIFFICULTIES})
        if self.cfg.logger.name == "wandb":  # the pictures are opened for it alone
            tracker.table("examples", self._examples(folder, labels))

    def _examples(self, folder: Path, labels: pd.DataFrame) -> pd.DataFrame:
        """Some training examples of each difficulty: picture, label, answers and pass rate."""
        from dcsft.report.examples import choose

        labels, answers = choose(labels), {}
        if (folder / "rollouts.parquet").exists():
            rollouts = pd.read_parquet(folder / "rollouts.parquet", columns=["id", "text"])
            answers = rollouts[rollouts["id"].isin(labels["id"])].groupby("id")["text"].agg("\n".join).to_dict()
        pictures = {e.id: e.pictures[0].open() for e in self.task.examples("train") if e.id in set(labels["id"])}
        columns = labels[["id", "target", "difficulty", "pass_rate"]]
        return columns.assign(
            picture=[pictures[name] for name in labels["id"]],
            completions=[answers.get(name) for name in labels["id"]],
        )

    def _finish(self, tracker: Tracker) -> Path:
        results = results_of(self.cfg, self.task, self.plan, self.folders)
        path = self.leaves["results"]
        write_json(path, results)
        tracker.summary(results)
        from dcsft.report.page import write_report
        from dcsft.report.tables import accuracy_tables
        from dcsft.report.tables import console as rendered
        from dcsft.stages.gather import cell_of, sights_of

        cell = cell_of(arm_name(self.cfg), self.cfg, self.plan, self.store, results, "")
        if self.cfg.sweep is None:
            self.console.print(rendered(accuracy_tables([cell])[0]))
        else:  # the sweep's report has the table; here a line a cell
            levels = (
                f"{name} {100 * split['accuracy']:.1f}" for name, split in results["splits"].items() if split["n"]
            )
            self.console.print(f"{results['name']}, seed {self.cfg.seed}: {', '.join(levels)}", highlight=False)
        if "page" in self.leaves:
            title = f"{self.cfg.task['name']}: {results['name']}"
            html = write_report(self.leaves["page"].parent, title, [cell], sights_of({cell.labels: self.task}))
            self.console.print(f"page: {html}", highlight=False, soft_wrap=True)
            tracker.folder_of("report", html.parent)
        return path


def _environment() -> dict[str, Any]:
    """What the stage ran on: recorded, never hashed."""
    packages = ("torch", "transformers", "peft", "lightning", "numpy", "pillow")
    return {
        "dcsft": version("dcsft"),
        "python": sys.version.split()[0],
        **{name: version(name) for name in packages},
        "cores": os.cpu_count(),
    }


def console_and_log() -> Console:
    """The screen: one console for progress, messages and tables."""
    console = Console(soft_wrap=False)
    handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    handler.setLevel(logging.WARNING)
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return console


def resolve(cfg: DictConfig) -> DictConfig:
    """The configuration with every interpolation replaced by its value."""
    with open_dict(cfg):
        OmegaConf.resolve(cfg)
    return cfg
