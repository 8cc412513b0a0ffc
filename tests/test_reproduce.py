"""docs/reproduce.md tells the truth: its commands compose and pass the checks, and no table or figure is left out."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dcsft.config import CONF, accept_names, check, register
from dcsft.stages.gather import sweep_cells

ROOT = CONF.parent
TEXT = (ROOT / "docs" / "reproduce.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LINES = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
COMMANDS = sorted({re.sub(r"\s+#.*|(?<=\S)\s+(?=\s)", "", line).strip() for line in LINES if line})
TRAINING = [command for command in COMMANDS if command.startswith("python train.py ")]
HEADINGS = [
    *(f"Table {name}" for name in ("1", "2", "3", "4", "5", "6", "S1", "S2")),
    *(f"Figure {name}" for name in ("1", "3", "4", "5", "6", "S1", "S2")),
]


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_table_and_figure_has_a_command(heading: str) -> None:
    section = re.search(rf"^### {heading}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(r"^```\npython train\.py ", section[1], re.MULTILINE)
    assert f"(#{heading.lower().replace(' ', '-')})" in TEXT  # in the table of all


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_seeds_of_the_table_are_those_of_the_sweep(heading: str) -> None:
    """A row is | [Table 1](#table-1) | what | the paper's numbers | seeds | hours |."""
    (row,) = re.findall(rf"^\| \[{heading}(?: †)?\]\(.*$", TEXT, re.MULTILINE)
    sweep = OmegaConf.load(ROOT / "sweeps" / f"{heading[0].lower()}{heading[1:].replace(' ', '')}.yaml")
    assert row.split("|")[4].replace(" ", "") == str(sweep.hydra.sweeper.params.seed)


def test_nothing_but_commands_stands_in_the_blocks() -> None:
    assert len(COMMANDS) > 25
    assert all(command.startswith(("python train.py ", "python report.py ")) for command in COMMANDS)


def test_a_report_is_of_a_sweep_that_a_command_runs() -> None:
    reports = [command for command in COMMANDS if command not in TRAINING]
    assert len(reports) >= 4
    for command in reports:
        assert re.sub(r"report.py sweeps/(\w+).yaml", r"train.py -cd sweeps -cn \1", command) in TRAINING


@pytest.mark.parametrize("command", TRAINING)
def test_every_command_composes_and_passes_the_checks(command: str) -> None:
    """Of a sweep one seed, and one arm of the sweep's own: test_conf.py composes them all."""
    register()
    words = shlex.split(command)[2:]
    overrides = accept_names([word for word in words if "=" in word])
    if "-cn" in words:
        sweep = ROOT / "sweeps" / f"{words[words.index('-cn') + 1]}.yaml"
        overrides += ["seed=0"]
        if "arm: " in sweep.read_text() and "arm=" not in command:
            overrides += ["arm=grpo"]
        configurations = [cfg for cfg, _ in sweep_cells(sweep, overrides)]
    else:
        configurations = []
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = BasicSweeper.split_arguments(parsed, None)[0]
        assert len(swept) == 1 or "-m" in words
        for cell in swept:
            if "seed=1" in cell or "seed=2" in cell:
                continue
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(CONF), version_base="1.3"):
                configurations.append(compose("config", list(cell)))
    assert configurations
    for cfg in configurations:
        OmegaConf.resolve(cfg)
        assert not OmegaConf.missing_keys(cfg)
        check(cfg)


def test_every_knob_that_is_named_exists() -> None:
    """In the prose, too: `group.key=value` and bare `group.key`."""
    prose = re.sub(r"^```\n.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    knobs = set(
        re.findall(r"`(?:\")?((?:task|model|label|trainer|train|tuning|distill|engine|check)\.[a-z0-9_.]+)", prose)
    )
    assert len(knobs) > 20
    register()
    known = []
    for task in ("imagenet", "refcoco", "mmk12"):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            known.append(compose("config", [f"task={task}"]))
    missing = object()
    for knob in knobs:
        values = [OmegaConf.select(cfg, knob.rstrip("."), default=missing) for cfg in known]
        assert any(value is not missing for value in values), knob
