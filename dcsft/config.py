"""The checks of the configuration that Hydra cannot make, and what a user is told of an error.

`task`, `reward` and `paradigm` hold constructor arguments of the class that `_target_` names: that class's signature
is their schema. Everything else is a dataclass in schema.py.
"""

import ast
import difflib
import errno
import importlib
import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcsft.checks import (
    curation_problems,
    engine_problems,
    label_problems,
    launcher_problems,
    model_problems,
    paradigm_problems,
    publish_problems,
    run_problems,
    task_problems,
    trainer_problems,
    training_problems,
)
from dcsft.schema import Config

CONF = Path(__file__).parent.parent / "conf"
_SHOWN = 20


def register() -> None:
    """Make the schema known to Hydra under the name "schema"."""
    ConfigStore.instance().store(name="schema", node=Config)


def accept_names(arguments: list[str]) -> list[str]:
    """The command line, with the names of a user's own OOD sets marked as new keys, as Hydra wants them (+)."""
    return [f"+{argument}" if argument.startswith("task.ood.") else argument for argument in arguments]


def nearest(name: str, options: list[str]) -> str:
    """'did you mean X?' if something is close, else the first of the options."""
    close = difflib.get_close_matches(name, options, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = sorted(options)[:_SHOWN]
    return f"the options are {', '.join(shown)}{' ...' if len(options) > _SHOWN else ''}"


def named_values(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values by their dotted names, inner nodes included, each before what is in it."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[prefix + key] = value
        if isinstance(value, dict):
            found |= named_values(value, f"{prefix}{key}.")
    return found


def leaf_names(cfg: DictConfig) -> list[str]:
    """Dotted names of all keys, inner ones included."""
    return list(named_values(OmegaConf.to_container(cfg, resolve=False)))


def import_target(path: str) -> type:
    """The class that a `_target_` names.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def build(node: dict[str, Any], **more: Any) -> Any:
    """An object of the class that `node["_target_"]` names, from the node's other values and `more`."""
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "name")}
    return import_target(node["_target_"])(**arguments, **more)


def _arguments(target: str) -> tuple[set[str], set[str]]:
    """Names of all, and of the required, constructor arguments of a class, `reward` left out.

    Read from the source: importing a paradigm would import torch, for seconds, before a typo is found.

    Raises:
        ImportError: there is no such class.
    """
    module, _, name = target.rpartition(".")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module {module}")
    body = ast.parse(Path(spec.origin).read_text()).body
    found = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    if not found:
        raise ImportError(f"no class {name} in {module}")
    accepted: set[str] = set()
    optional: set[str] = set()
    for node in found[0].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [argument.arg for argument in node.args.args[1:]]
            accepted |= set(names)
            optional |= set(names[len(names) - len(node.args.defaults) :] if node.args.defaults else [])
    accepted.discard("reward")
    return accepted, accepted - optional


def _target_problems(cfg: DictConfig, group: str) -> list[str]:
    """Keys of a `_target_` group that its class does not take, or lacks; or that its code is not there."""
    node = cfg[group]
    target = node["_target_"]
    try:
        accepted, required = _arguments(target)
    except ImportError as error:
        return [f"{group} must be one whose code is installed, got {target}, which is not there yet ({error})"]
    given = {key for key in node if key not in ("_target_", "name")}
    problems = [f"{group}.{key} is not a key of {target}; {nearest(key, list(accepted))}" for key in given - accepted]
    return problems + [f"{group}.{key} must be given, got nothing; set {group}.{key}=VALUE" for key in required - given]


def _unknown_keys(node: DictConfig, prefix: str) -> list[str]:
    """Keys that `+key=value` has added to a part of the configuration whose schema does not have them."""
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return []
    known = [entry.name for entry in fields(schema)]
    added = [f"{prefix}{key} is not a key of the configuration; {nearest(key, known)}" for key in set(node) - {*known}]
    inner = [(key, node._get_node(key)) for key in known]
    return added + [
        problem
        for key, child in inner
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing()
        for problem in _unknown_keys(child, f"{prefix}{key}.")
    ]


def check(cfg: DictConfig) -> None:
    """Everything that can be found wrong before anything is loaded, all at once.

    Raises:
        ValueError: one line a problem.
    """
    problems = _unknown_keys(cfg, "")
    for find in (
        *(run_problems, curation_problems, training_problems, label_problems, engine_problems, publish_problems),
        *(trainer_problems, launcher_problems, paradigm_problems, model_problems),
    ):
        problems += find(cfg)
    if cfg.stage not in ("check", "distill"):  # which come before there are any; check says so
        problems += task_problems(cfg)
    for group in ("reward", "task", "paradigm"):
        problems += _target_problems(cfg, group)
    if problems:
        raise ValueError("\n".join(problems))


def explain(error: Exception) -> str | None:
    """What a user is told of an error: one line a problem; None for a fault of ours, which deserves its traceback."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_hydra(" ".join(f"{error} {error.__cause__ or ''}".split()))
    if _disk_full(error):
        return f"the disk must have room for the results, got none left ({error}); free some, the same command goes on"
    if isinstance(error, ValueError):
        return str(error)
    return None


def _disk_full(error: BaseException | None) -> bool:
    """Whether a write failed for want of room, in the words of Python or of the libraries that write for us."""
    if error is None:
        return False
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = ("No space left on device", "PytorchStreamWriter failed writing", *(f"os error {n}" for n in numbers))
    full = (isinstance(error, OSError) and error.errno in numbers) or any(words in str(error) for words in said)
    return full or _disk_full(error.__cause__ or error.__context__)


def _explain_hydra(said: str) -> str:
    """Hydra's words, turned into what must be, what was given, and what is near."""
    if found := re.search(r"Could not override '([^']+)'", said):
        return f"{found[1]} is not a key of the configuration; {nearest(found[1], _all_keys())}"
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", said):
        group, choice = found.groups()
        if not (CONF / group).is_dir():  # one of Hydra's own, from a plugin
            return f"{group}/{choice} must be installed, got no such plugin of Hydra's"
        options = [file.stem for file in (CONF / group).glob("*.yaml")]
        return f"{group} must be one of {', '.join(sorted(options))}, got {choice!r}; {nearest(choice, options)}"
    if found := re.search(r"override (\S+?)=.* Value '(.*)' of type '\w+' could not be converted to (\w+)", said):
        key, value, kind = found.groups()
        return f"{key} must be of type {kind}, got {value!r}; see conf/ for what it means"
    return said


def _all_keys() -> list[str]:
    """Every key of the default configuration, and the groups."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = leaf_names(compose("config"))
    return [*keys, *(folder.name for folder in CONF.iterdir() if folder.is_dir())]
