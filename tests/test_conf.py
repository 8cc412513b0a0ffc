"""Every yaml of conf/ and sweeps/ composes, typos are refused, and no knob is without effect."""

import importlib.util
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dcsft.config import CONF, check, leaf_names, register
from dcsft.stages.gather import sweep_cells
from dcsft.stages.plan import NOT_KEYED, arm_name, build_task, difficulties, plan, told_apart

SWEEPS = CONF.parent / "sweeps"
SERVER = ("engine=server", "engine.url=http://localhost:8000/v1", "engine.model=policy")
CHOICES = sorted((folder.name, file.stem) for folder in CONF.iterdir() if folder.is_dir() for file in folder.glob("*"))


def composed(*overrides: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_groups_are_found():
    assert len(CHOICES) > 30
    assert ("task", "icons") in CHOICES


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_without_a_missing_value(group, choice):
    cfg = composed(f"{group}={choice}")
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_whose_code_exists_passes_the_checks(group, choice):
    cfg = composed(f"{group}={choice}")
    for part in ("task", "reward", "paradigm"):
        if importlib.util.find_spec(cfg[part]["_target_"].rpartition(".")[0]) is None:
            with pytest.raises(ValueError, match="which is not there yet"):
                check(cfg)
            return
    if (group, choice) == ("engine", "server"):
        with pytest.raises(ValueError, match=r"engine.url must begin with http.*\nengine.model must be"):
            check(cfg)
        cfg = composed("engine=server", "engine.url=http://localhost:8000/v1", "engine.model=policy")
    if (group, choice) == ("task", "mmk12"):
        cfg = composed("task=mmk12", "task.targets=bare")
    check(cfg)


@pytest.mark.parametrize("paradigm", ["sft", "rs", "grpo"])
def test_reasoning_is_not_unlearned_on_bare_answers_unless_that_is_asked_for(paradigm):
    """The cold start of every paradigm trains on the targets."""
    mmk12 = ("task=mmk12", f"paradigm={paradigm}")
    with pytest.raises(ValueError, match=r"task.targets must be a file of .*, got null; set task.targets=FILE, which"):
        check(composed(*mmk12))
    for fine in ("task.targets=FILE", "task.targets=bare", "task.system=null", "stage=check"):
        check(composed(*mmk12, fine))
    check(composed(*mmk12, "stage=distill", *SERVER))


def test_the_default_is_sft_em_on_icons_with_the_tiny_model():
    cfg = composed()
    assert (cfg.task["name"], cfg.model.name, cfg.subset.name, cfg.paradigm["name"]) == ("icons", "tiny", "em", "sft")


def test_a_task_names_its_natural_model_and_the_command_line_still_wins():
    cfg = composed("task=imagenet", "subset=em")
    assert cfg.model.path == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert composed("task=imagenet", "model=qwen2_5_vl_7b").model.path == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert composed("model=qwen2_5_vl_7b", "task=imagenet").model.path == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_imagenet_is_the_papers_run():
    cfg = composed("task=imagenet", "subset=em")
    assert (cfg.train.steps, cfg.train.batch_size, cfg.train.lr, cfg.train.warmup_ratio) == (600, 16, 1e-5, 0.1)
    assert (cfg.cold_start.epochs, cfg.cold_start.batch_size, list(cfg.cold_start.parts)) == (
        1,
        16,
        ["llm", "vision", "merger"],
    )
    assert (cfg.tuning.r, cfg.tuning.alpha, cfg.model.max_pixels) == (32, 64, 802816)
    label = cfg.label
    assert (label.num_samples, label.temperature, label.top_p, label.top_k) == (8, 0.9, 1.0, 0)


def test_reasoning_is_the_papers_run():
    cfg = composed("task=mmk12", "subset=em")
    assert (cfg.train.steps, cfg.task.num_train, cfg.task.num_cold_start, cfg.max_new_tokens) == (400, 6400, 400, 4096)
    assert cfg.model.path == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert cfg.evaluate.repetition_penalty == 1.1
    expected = cfg.task.expected
    assert (expected.mmmu + expected.mmmu_open, expected.math_verse, sum(expected.values())) == (900, 2180, 8892)


@pytest.mark.parametrize(
    ("overrides", "beta"),
    [
        (["task=mmk12"], 0.001),
        (["task=mmk12", "arm=grpo"], 0.001),
        (["task=icons"], 0.04),
        (["task=refcoco"], 0.04),
        (["task=mmk12", "kl=0.01"], 0.01),
        (["task=mmk12", "paradigm.kl=0"], 0),
    ],
)
def test_the_task_sets_beta_and_the_command_line_still_wins(overrides, beta):
    assert composed("paradigm=grpo", *overrides).paradigm.kl == beta


def test_the_repetition_penalty_enters_the_key_of_what_is_evaluated_with_it():
    before, after = _keys(composed()), _keys(composed("evaluate.repetition_penalty=1.1"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"evaluate"}
    curve = "train.eval_every=5"  # a run that evaluates on its way
    before, after = _keys(composed(curve)), _keys(composed(curve, "evaluate.repetition_penalty=1.1"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"train", "evaluate"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hard_ratio=1.5"], "hard_ratio must be 'natural' or a share in [0, 1], got 1.5"),
        (["hard_ratio=often"], "hard_ratio must be 'natural' or a share in [0, 1], got 'often'"),
        (["subset=hard", "hard_ratio=0.05"], "hard_ratio must be natural with subset=hard, got 0.05"),
        (["+seeds.daat=3"], "seeds.daat is not a key of the configuration; did you mean 'data'?"),
        (["+foo=3"], "foo is not a key of the configuration"),
        (
            ["+task.label_noize=0"],
            "task.label_noize is not a key of dcsft.tasks.icons.Icons; did you mean 'label_noise'?",
        ),
        (["train.epochs=1"], "train must have a budget in steps or in epochs, got steps=250 epochs=1"),
        (["model.attention=flash"], "model.attention must be one of auto, sdpa, flash_attention_2, eager, got 'flash'"),
        (["model.max_tiles=0"], "model.max_tiles must be null or at least 1, got 0"),
        (["stage=lable"], "stage must be one of"),
        (["publish.repo=me"], "publish.repo must be null or OWNER/NAME at the Hub, got 'me'"),
        (["publish.repo=me/labels"], "publish.repo must be null with stage=report, got 'me/labels'; add stage=publish"),
        (["subset.size=-1"], "subset.size must be null, 'equal' or a positive number"),
        (["label.temperature=0"], "label.temperature must be positive"),
        (["evaluate.repetition_penalty=0"], "evaluate.repetition_penalty must be positive, got 0"),
        (["paradigm=grpo", "tuning=full"], "paradigm.kl must be 0 with tuning=full, got 0.04; "),
        (
            ["paradigm=grpo", "paradigm.warm_start_batches=1", "label.top_k=50"],
            "paradigm.warm_start_batches must be 0 unless labelling samples as the policy does, got label.temperature="
            "0.9 top_p=1.0 top_k=50 where the policy has 0.9, 1.0 and 0",
        ),
        (
            ["paradigm=grpo", "paradigm.warm_start_batches=1", "label.num_samples=4"],
            "label.num_samples must be at least paradigm.num_completions=8 for a warm start, got 4; ",
        ),
        (
            ["paradigm=grpo", "paradigm.kl=0", "paradigm.warm_start_batches=2", "tuning=full"],
            "paradigm.warm_start_batches must be 0 or 1 with tuning=full, got 2; ",
        ),
        (
            ["label.of_model=qwen2_5_vl_3b"],
            "label.of_model must be null with label=sampled, got qwen2_5_vl_3b; use label=release",
        ),
        (
            ["outputs=train.py/below"],
            "outputs must be a folder that can be written to, got 'train.py/below'; set",
        ),
        (["train.eval_every=0"], "train.eval_every must be null or at least 1, got 0; null is never"),
        (["cold_start.weight_decay=-5"], "cold_start.weight_decay must not be negative, got -5.0; 0 is off"),
        (["train.betas=[0.9,2]"], "train.betas must be two numbers in [0, 1), got [0.9, 2.0]"),
        (["train.class_metrics_every=-5"], "train.class_metrics_every must be 0 (never) or a number of steps, got -5"),
        (["tuning.parts=[head]"], "tuning.parts must be some of llm, vision, merger"),
        (["task=imagenet", "model.from_scratch=true"], "model.from_scratch must be false"),
        (["stage=distill"], "engine must be server with stage=distill, got shared_prefix; add engine=server"),
        (["engine.url=http://a/v1"], "engine.url must be null with engine=shared_prefix, got http://a/v1"),
        ([*SERVER, "engine.url=a:8000"], "engine.url must begin with http:// or https://, got a:8000"),
        ([*SERVER, "engine.stages=[train]"], "engine.stages must be some of label, evaluate, got ['train']"),
        (
            [*SERVER, "engine.extensions=false", "engine.stages=[evaluate]", "evaluate.repetition_penalty=1.1"],
            "evaluate.repetition_penalty must be 1.0 with engine.extensions=false and engine.stages=[evaluate], got",
        ),
        ([*SERVER, "engine.extensions=false", "label.top_k=5"], "label.top_k must be 0 with engine.extensions=false"),
        ([*SERVER, "paradigm=grpo", "paradigm.warm_start_batches=1"], "paradigm.warm_start_batches must be 0 with"),
        ([*SERVER, "engine.usd_per_million_tokens=[3]"], "engine.usd_per_million_tokens must be [input, output]"),
        ([*SERVER, "engine.concurrency=0"], "engine.concurrency must be positive, got 0"),
        ([*SERVER, "distill.splits=[id]"], "distill.splits must be some of cold_start, train, got ['id']"),
        ([*SERVER, "distill.temperature=0"], "distill.temperature must be positive, or 0 with distill.num_samples=1"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(overrides, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "label=release must come with task.release=DIR, got none; its labels are of its own rows"),
        (["+task.release=DIR", "paradigm=rs"], "label must be sampled with paradigm=rs subset=em, got release, which"),
        (["+task.release=DIR", "subset=pass_rate"], "label must be sampled with paradigm=sft subset=pass_rate, got"),
        (["+task.release=DIR"], "label.of_model must be one of qwen2_5_vl_3b, qwen2_5_vl_7b, got 'tiny'"),
    ],
)
def test_what_needs_sampled_answers_is_refused_with_the_labels_of_the_release(overrides, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        difficulties(composed("label=release", *overrides))


def test_all_problems_are_said_at_once():
    with pytest.raises(ValueError, match=r"^.*stage.*\n.*hard_ratio.*\n.*train\.lr.*$"):
        check(composed("hard_ratio=2", "stage=x", "train.lr=-1"))


def _changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    if isinstance(value, list):
        return [_changed(value[0]), *value[1:]] if value and not isinstance(value[0], str) else ["merger"]
    return f"{value}x"


_SPECIAL = {
    "hard_ratio": 0.5,
    "subset.name": "all",
    "subset.size": 5,
    "subset.min_pass_rate": 0.1,
    "subset.max_pass_rate": 0.9,
    "train.epochs": 1.0,
    "cold_start.steps": 3,
    "train.eval_every": 5,
    "label.of_model": "qwen2_5_vl_3b",
    "label.counts": {"qwen2_5_vl_3b": [1, 1, 1]},
    "model.path": "somewhere",
    "model.dtype": "bfloat16",
    "model.max_tiles": 4,
    "model.world": "scenes",
    "paradigm._target_": "dcsft.paradigms.other.Other",
    "engine.extensions": False,
    "engine.extra_body": {"min_p": 0.1},
    "engine.usd_per_million_tokens": [1.0, 2.0],
    "trainer.num_devices": 2,
    "trainer.timeout_min": 1.0,
}
_NUMBERS = ("concurrency", "timeout_s", "num_retries", "patience_s", "backoff_s", "parity_check", "samples_per_request")
_SPECIAL |= {f"engine.{name}": 3 for name in _NUMBERS}
_SPECIAL |= {f"launcher.{name}": 3 for name in ("num_parallel", "gpus", "cpus", "warning_s", "max_requeues")}


def _keys(cfg) -> dict[str, str]:
    return {stage: artefact.key for stage, artefact in plan(cfg, build_task(cfg)).items()}


def _leaves(cfg) -> list[str]:
    names = leaf_names(cfg)
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


@pytest.mark.parametrize("name", _leaves(composed()))
def test_no_knob_is_an_orphan(name):
    """Each leaf changes some stage's key, or stands in the short list of those that do not, with the reason."""
    before = composed("seeds.data=0", "seeds.cold_start=0", "seeds.label=0", "seeds.train=0")
    exempt = any(name == known or name.startswith(f"{known}.") for known in NOT_KEYED)
    if name in ("task._target_", "reward._target_"):
        pytest.skip("another class altogether: its name stands in the recipes of all stages")
    after = before.copy()
    value = _SPECIAL[name] if name in _SPECIAL else _changed(_get(before, name))
    OmegaConf.update(after, name, value, force_add=True)
    if name.startswith("model.foundation") or name in ("model.min_pixels", "model.max_pixels", "model.world"):
        with pytest.raises(ValueError, match=r"from_scratch=true"):
            _keys(after)
        return
    assert (_keys(before) == _keys(after)) == exempt


def _get(cfg, name):
    value = OmegaConf.select(cfg, name)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_a_change_of_the_test_sets_leaves_the_training_where_it_is():
    before, after = _keys(composed()), _keys(composed("task.num_test=200"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"evaluate"}


def test_three_training_seeds_share_one_labelling():
    before, after = _keys(composed()), _keys(composed("seeds.train=1"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"train", "evaluate"}


def test_labels_of_a_server_are_keyed_by_what_determines_them():
    local, server = _keys(composed()), _keys(composed(*SERVER))
    assert {stage for stage in local if local[stage] != server[stage]} == {"label", "train", "evaluate"}
    elsewhere = (
        *("engine=server", "engine.url=https://host/v1", "engine.model=other", "engine.concurrency=1"),
        *("engine.timeout_s=1", "engine.patience_s=1", "engine.parity_check=0", "engine.api_key_env=KEY"),
    )
    assert _keys(composed(*elsewhere)) == server
    for change in ("+engine.extra_body.repetition_penalty=1.1", "engine.extensions=false"):
        assert _keys(composed(*SERVER, change))["label"] != server["label"]
    evaluate = _keys(composed(*SERVER, "engine.stages=[evaluate]"))
    assert {stage for stage in local if local[stage] != evaluate[stage]} == {"evaluate"}


def test_a_distillation_is_keyed_by_its_teacher_and_its_questions():
    def key(*overrides: str) -> str:
        keys = _keys(composed("stage=distill", *SERVER, *overrides))
        assert set(keys) == {"distill"}
        return keys["distill"]

    same = ("engine.url=https://host/v1", "engine.usd_per_million_tokens=[1,2]", "task.num_test=7", "train.lr=1e-3")
    assert {key(one) for one in same} == {key()}
    others = (
        "engine.model=other",
        "distill.num_samples=2",
        "distill.system=Think.",
        "task.num_train=7",
        "seeds.label=9",
    )
    assert len({key(), *map(key, others)}) == 1 + len(others)


def test_the_foundation_is_trained_when_asked_for():
    assert next(iter(_keys(composed("model.from_scratch=true")))) == "foundation"


@pytest.mark.parametrize("sweep", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_expands_and_opens_with_what_it_reproduces(sweep: Path):
    register()
    cells = sweep_cells(sweep, [])
    assert len({(arm_name(cfg), cfg.seed) for cfg, _ in cells}) == len(cells), "two cells collide"
    assert told_apart([cfg for cfg, _ in cells]) == [arm_name(cfg) for cfg, _ in cells]
    for cfg, _ in cells:
        check(cfg)
    text = sweep.read_text()
    assert text.startswith("# ")
    assert "# command:" in text
    assert "# cost:" in text


def test_a_sweep_of_the_command_line_replaces_the_sweeps_own():
    register()
    cells = sweep_cells(SWEEPS / "table1.yaml", ["seed=5", "arm=easy,hard"])
    assert [(arm_name(cfg), cfg.seed) for cfg, _ in cells] == [("Easy", 5), ("Hard", 5)]


def test_cells_that_differ_in_more_than_arm_and_seed_are_rows_of_their_own():
    rates = [composed(f"seed={seed}", f"train.lr={lr}", "subset=all") for seed in (0, 1) for lr in (1e-5, 1e-3)]
    assert told_apart(rates) == ["SFT, train.lr=1e-05", "SFT, train.lr=0.001"] * 2
    # Even where no seed has both.
    assert told_apart([rates[0], rates[3]]) == ["SFT, train.lr=1e-05", "SFT, train.lr=0.001"]
    # A chosen yaml is named, not listed; where a run happens is no difference.
    models = [composed("model=tiny"), composed("model=tiny_other", "launcher=slurm")]
    assert told_apart(models) == ["SFT-EM, model=tiny", "SFT-EM, model=tiny_other"]
    arms = [composed(f"seed={seed}", f"arm={arm}") for seed in (0, 1) for arm in ("sft", "grpo")]
    assert told_apart(arms) == ["SFT", "GRPO"] * 2


def test_one_cell_twice_is_refused():
    said = "a sweep's cells must differ, got 'SFT-EM' with seed 0 twice; leave one out"
    with pytest.raises(ValueError, match=said):
        told_apart([composed("seed=0"), composed("seed=0")])
