"""README.md tells the truth: its tree is the repository, its commands compose."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from dcsft.config import CONF, accept_names, register
from dcsft.stages.gather import sweep_cells

ROOT = CONF.parent
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^(?:\$ )?(python (?:train|report)\.py[^#\n]*)", README, re.MULTILINE)))


def test_the_commands_are_found():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    words = shlex.split(command.replace("DIR", "somewhere"))[1:]
    script, *rest = words
    register()
    if script == "report.py":
        assert sweep_cells(ROOT / rest[0], accept_names(rest[1:]))
        return
    if "-cn" in rest:
        name = rest[rest.index("-cn") + 1]
        overrides = [word for word in rest if "=" in word]
        assert sweep_cells(ROOT / "sweeps" / f"{name}.yaml", overrides)
        return
    overrides = accept_names([word for word in rest if "=" in word])
    if "-m" in rest:
        overrides = [override.split(",")[0] for override in overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("config", overrides)


def _tree() -> list[str]:
    """The paths of the tree at the end of README.md."""
    block = README.rsplit("```", 2)[1].splitlines()[1:]
    folders: list[str] = []
    paths = []
    for line in block:
        found = re.match(r"^((?:│   |    )*)(?:├── |└── )(\S+)", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        del folders[depth:]
        name = found[2]
        if name.endswith("/"):
            folders.append(name)
        paths.append("".join(folders) + ("" if name.endswith("/") else name))
    return paths


def test_every_path_of_the_tree_exists():
    paths = _tree()
    assert len(paths) > 60
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_source_file_has_its_caption_in_the_tree():
    paths = set(_tree())
    files = [*(ROOT / "dcsft").rglob("*.py"), *(ROOT / "sweeps").glob("*.yaml"), *(ROOT / "benchmarks").glob("*.py")]
    named = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert named <= paths, sorted(named - paths)
