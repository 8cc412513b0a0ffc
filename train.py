"""Run one experiment: `python train.py task=icons subset=em`; `python train.py --help` shows the choices."""

import os
import signal
import sys

import hydra
from omegaconf import DictConfig

from dcsft.config import accept_names, explain, register

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and we say them in one line
register()


def fail(error: Exception) -> None:
    """Exit with what a user can act on; a fault of ours keeps its traceback."""
    message = explain(error)
    if message is None:
        raise error
    sys.exit(message)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run the stages of `cfg`, reusing what is there."""
    from dcsft.stages import check
    from dcsft.stages.run import Run, console_and_log, resolve

    console, results = console_and_log(), None
    try:
        if cfg.launcher.name != "local" and cfg.stage != "check":  # looking at the data is done here
            from dcsft.launch.submit import submit

            submit([cfg], [], "", console)
            return
        if cfg.stage == "check":
            check.run(resolve(cfg), console)
        elif cfg.launcher.dry_run:
            Run(resolve(cfg), console).show()
        else:
            results = Run(resolve(cfg), console)()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except Exception as error:
        fail(error)
    if results is not None:
        console.print(f"results: {results}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, in every stage
    sys.argv[1:] = accept_names(sys.argv[1:])
    try:
        main()
    except Exception as error:  # in composing the configuration
        fail(error)
