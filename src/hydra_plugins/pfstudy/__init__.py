"""Hydra's way into pfstudy: a sweeper and a launcher that delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PfstudySweeper(Sweeper):
    """Lists the jobs of a sweep and hands them to the launcher; writes nothing."""

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the context, and make the launcher that the config names."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.hydra_context = hydra_context
        try:
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except RuntimeError as error:
            if "hydra_ray_launcher" in str(error):
                from pfstudy.schema.compose import missing_launcher

                raise missing_launcher("ray") from None
            raise

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the product of all lists; checked before, raises the first failure behind."""
        from pfstudy.schema.compose import compose_jobs
        from pfstudy.schema.sweeps import expand_sweep

        loader = self.hydra_context.config_loader
        jobs = expand_sweep(loader, self.config, self.params, arguments)
        if isinstance(self.launcher, PfstudyLauncher):
            return self.launcher.launch(jobs, initial_job_idx=0)
        from pfstudy.cli.training import show_study
        from pfstudy.errors import PfstudyError, first_line
        from pfstudy.launch.job import close_study, open_study

        configs = compose_jobs(loader, self.config, jobs)
        opened = open_study(configs, self.config.hydra.runtime.choices["hydra/launcher"])
        named = [[*job, f"study.name={opened.study}"] for job in jobs]
        try:
            returns = self.launcher.launch(named, initial_job_idx=0)
        except RuntimeError as error:  # no cluster here, say
            raise PfstudyError(f"the launcher says: {first_line(error)}") from error
        close_study(opened)
        problems = [done for done in returns if done.status != JobStatus.COMPLETED]
        if len(problems) < len(returns):
            show_study(configs[0], opened.study)
        for done in problems:
            _ = done.return_value  # raises
        return returns


class PfstudyLauncher(Launcher):
    """Composes all jobs and gives them to the task function at once."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the context."""
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose every job, and hand all of them on."""
        from pfstudy.schema.compose import compose_jobs

        configs = compose_jobs(self.hydra_context.config_loader, self.config, job_overrides)
        self.task_function(configs)
        return []
