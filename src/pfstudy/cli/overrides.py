"""From the arguments of the command line to configs, by Hydra."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pfstudy.errors import PfstudyError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pfstudy.schema.config import Config

_LAUNCHER = re.compile(r"[+~]*hydra[./]launcher\b")
_WITH_VALUE = {  # options of Hydra's that are followed by a value
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
}


def compose(arguments: Sequence[str]) -> list[Config]:
    """Let Hydra compose what the arguments say.

    Under a launcher that is not ours, Hydra runs each job by itself, and nothing is returned.

    Args:
        arguments: Overrides and options of Hydra's, ``-m`` among them.

    Returns:
        The configs of all jobs; none if Hydra was only asked to show something.

    Raises:
        PfstudyError: The configuration is not valid.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from pfstudy.schema.compose import explain, quote_value, single_config
    from pfstudy.schema.models import conf_directory, register_models

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to stderr
    # ours of hydra/launcher/ray is meant to be checked by the plugin's
    warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore")
    directories = [conf_directory(), *_config_directories(arguments)]
    register_models(directories, arguments)
    sys.argv = [sys.argv[0], *map(quote_value, _options_first(arguments))]
    task = _Task()
    run = hydra.main(version_base="1.3", config_path=str(directories[0]), config_name="config")
    try:
        run(task)()
        return [*task.configs, *map(single_config, task.single)]
    except PfstudyError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error) from None


class _Task:
    """What Hydra calls: takes all configs of a sweep from our launcher, or one from Hydra.

    Other launchers send it to where a job runs, and it runs the job there; importing it must
    therefore be enough for a config to be resolved.
    """

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.single: list[DictConfig] = []

    def __call__(self, composed: DictConfig | list[Config]) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if isinstance(composed, list):
            self.configs.extend(composed)
        elif HydraConfig.get().mode == RunMode.RUN:
            self.single.append(composed)  # parsed later, where Hydra does not comment on errors
        else:
            from pfstudy.cli.training import run_as_job

            run_as_job(composed)

    def __setstate__(self, state: dict[str, object]) -> None:
        from pfstudy.schema.blocktree import register_resolver

        register_resolver()
        self.__dict__.update(state)


def compose_only(arguments: Sequence[str]) -> list[Config]:
    """Compose what the arguments say, whatever launcher they name: it is given nothing to run.

    Raises:
        PfstudyError: The configuration is not valid.
    """
    kept = [argument for argument in arguments if not _LAUNCHER.match(argument)]
    return compose([*kept, "hydra/launcher=pfstudy"])


def _options_first(arguments: Sequence[str]) -> list[str]:
    """Put overrides behind options: Hydra's parser does not take them on both sides of one."""
    options: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        is_value = bool(options) and options[-1] in _WITH_VALUE and argument[:1] != "-"
        (options if argument[:1] == "-" or is_value else overrides).append(argument)
    return options + overrides


def _config_directories(arguments: Sequence[str]) -> list[Path]:
    """Directories that ``--config-dir`` names."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    known, _ = parser.parse_known_args(arguments)
    if known.config_dir is not None and not known.config_dir.is_dir():
        raise PfstudyError(f"--config-dir {known.config_dir} is no directory.")
    return [known.config_dir] if known.config_dir else []
