"""The sweepers as Hydra finds them: it takes plugins from this package only. What they do is in `edgenetllm.sweeps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _Sweeper(Sweeper):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        from edgenetllm.composition import check_choices

        check_choices(config.hydra.runtime.choices)  # a mistake is said before anything large is imported
        self.stage: str = task_function.stage  # type: ignore[attr-defined]
        self.context, self.composed = hydra_context, config
        self.starter = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def _sweep(self, arguments: list[str]) -> Any:
        from edgenetllm.sweeps.sweep import Sweep  # here, as Hydra imports this file in every program

        return Sweep(self.stage, self.composed, self.context, self.starter, arguments)


class Grid(_Sweeper):
    """conf/hydra/sweeper/grid.yaml"""

    def __init__(self, params: Mapping[str, object] | None = None) -> None:
        self.params = params or {}

    def sweep(self, arguments: list[str]) -> None:
        from edgenetllm.sweeps.grid import run_grid

        run_grid(self._sweep(arguments), self.params)


class Search(_Sweeper):
    """conf/sweep/search.yaml"""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def sweep(self, arguments: list[str]) -> None:
        from edgenetllm.sweeps.search import read_options, run_search

        plain: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in self.options.items()
        }
        run_search(self._sweep(arguments), read_options(plain))
