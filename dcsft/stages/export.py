"""export: the run's model as one plain folder, its adapter merged, as transformers and inference servers load it.

The layout is the Hub's: weights, configuration, generation settings, tokenizer, chat template and processor, and
beside them `dcsft.json`, how pictures were seen. Not stored by key: it can be made again from the store in seconds.
"""

import shutil
from pathlib import Path

from dcsft.models.vlm import VLM


def run(folder: Path, policy: VLM) -> None:
    """Write `policy` into `folder`, whole or not at all; an earlier export there is replaced."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if policy.peft is not None:
        policy.merge_adapter()
    policy.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
