"""Tune the linear rule by CMA-ES with common random numbers: python scripts/tune_cjs_rule.py --setting default

Every generation plays fresh training episodes, the same for all candidates; what is minimised is the mean completion time
over Fair's in the same episode, so that busy and quiet episodes weigh alike. The mean of the search distribution, not the
luckiest candidate, is compared on validation seeds at the end of every tenth generation, and the best one is printed.
The weights that it found are in `tuned_rule.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cmaes import CMA

from edgenetllm.progress import tqdm
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags, Tpch, Workload
from edgenetllm.tasks.cjs.policies.baselines import fair, tuned_rule
from edgenetllm.tasks.cjs.policies.rollout import jct_ms
from edgenetllm.tasks.cjs.policies.wide_rule import LINEAR_WEIGHTS
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.cjs.simulator.settings import FIRST_SEED, SETTINGS

START = {  # what an earlier search found, rounded
    "work": 0.6, "source": 0.4, "full": 3.5, "ready": 0.4, "cap": -0.8, "cap_work": 0.4, "cap_jobs": -0.6, "cap_share": 0.7,
}  # fmt: skip


def tune(
    data: Workload, generations: int, population: int, episodes: int, sigma: float, seed: int
) -> dict[str, object]:
    """The best mean of the search distribution by validation: weights by name, and its JCT over Fair's."""
    tables = tabulate(data.profiles())
    start = np.array([START.get(name, 0.0) for name in LINEAR_WEIGHTS])
    search = CMA(mean=start, sigma=sigma, seed=seed, population_size=population)
    validation = FIRST_SEED["val"] + np.arange(32)
    fair_val = jct_ms(fair(), data, tables, validation)
    best: tuple[float, npt.NDArray[np.float64]] = (np.inf, start)
    bar = tqdm(range(generations), desc="cma-es", unit="generation")
    for generation in bar:
        seeds = FIRST_SEED["train"] + generation * episodes + np.arange(episodes)
        reference = jct_ms(fair(), data, tables, seeds)
        candidates = [search.ask() for _ in range(population)]
        scores = [float((jct_ms(tuned_rule(x), data, tables, seeds) / reference).mean()) for x in candidates]
        search.tell(list(zip(candidates, scores, strict=True)))
        if generation % 10 == 9 or generation == generations - 1:
            score = float((jct_ms(tuned_rule(search.mean), data, tables, validation) / fair_val).mean())
            best = min(best, (score, search.mean.copy()), key=lambda entry: entry[0])
            bar.set_postfix(val=f"{score:.4f}", best=f"{best[0]:.4f}", sigma=f"{search._sigma:.3f}")
    weights = {name: round(float(value), 4) for name, value in zip(LINEAR_WEIGHTS, best[1], strict=True)}
    return {"weights": weights, "validation_jct_over_fair": round(best[0], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="default")
    parser.add_argument("--data", choices=["tpch", "synthetic_dags"], default="tpch")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--generations", type=int, default=80)
    parser.add_argument("--population", type=int, default=14)
    parser.add_argument("--episodes", type=int, default=12, help="training episodes of a generation")
    parser.add_argument("--sigma", type=float, default=0.5, help="initial step size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data: Workload
    if options.data == "tpch":
        data = Tpch(name="tpch", setting=options.setting, data_dir=options.data_dir)
    else:
        data = SyntheticDags(name="synthetic_dags", setting=options.setting, seed=0)
    weights = tune(data, options.generations, options.population, options.episodes, options.sigma, options.seed)
    print(json.dumps({options.setting: weights}, indent=2))


if __name__ == "__main__":
    main()
