"""An option says at itself what it influences, in whichever class it is, and identities follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic.dataclasses import dataclass as checked
from test_config import settings

from edgenetllm.affects import (
    Affects,
    Location,
    keys_of,
    locations_in,
    of_command,
    of_later_stages,
    options_for,
    shaping,
)
from edgenetllm.config import Config, load_config
from edgenetllm.errors import UserError
from edgenetllm.run import config_hash


@dataclass
class Silent:
    """Options of other people's classes may have any name: these matter, as nobody says otherwise."""

    test: int = 1
    recorded: str = "a"
    data_dir: str = "here"
    folder: str = "there"


@checked
class Marked:
    test: Annotated[int, Affects("evaluation")] = 1
    data_dir: Annotated[Path, Location("data_dir")] = Path("here")
    rank: int = 2


class Plain:
    def __init__(self, rank: int, threads: Annotated[int, Affects("nothing")] = 1) -> None:
        self.rank, self.threads = rank, threads


def node(owner: type, **options: object) -> dict[str, object]:
    return {"_target_": f"{__name__}.{owner.__name__}", **options}


def chosen(stage, **groups) -> dict[str, object]:
    found = options_for(stage, groups, Config)
    return {key: value for key, value in found.items() if not key.endswith("_target_")}


@pytest.mark.parametrize("name", ["test", "recorded", "data_dir", "folder"])
def test_no_option_drops_out_because_of_its_name(name):
    one, other = ({"data": node(Silent, **{name: value})} for value in ("one", "other"))
    assert chosen("adaptation", **one) == {f"data.{name}": "one"} != chosen("adaptation", **other)


def test_the_class_that_owns_an_option_says_that_it_matters_less():
    data = node(Marked, test=3, data_dir="x", rank=4)
    assert chosen("pool", data=data) == chosen("pruning", data=data) == {"data.rank": 4}
    assert chosen("evaluation", data=data) == {"data.rank": 4, "data.test": 3}
    assert locations_in({"data": data, "task": {"abr": node(Marked)}}) == {
        "data.data_dir": "data_dir",
        "task.abr.data_dir": "data_dir",
    }


def test_a_class_without_fields_says_it_at_its_arguments():
    assert chosen("evaluation", model=node(Plain, rank=1, threads=8)) == {"model.rank": 1}


def test_an_option_influences_no_more_than_its_group():
    assert chosen("adaptation", pruning=node(Marked, rank=4)) == {}
    assert chosen("pruning", pruning=node(Marked, rank=4, test=3)) == {"pruning.rank": 4}


def test_every_run_of_the_same_results_has_the_same_hash():
    plain = config_hash(settings("experiment=debug"))
    same = [
        "paths.data_dir=elsewhere",
        "logger=wandb",
        "experience.workers=1",
        "callbacks.progress_bar=false",
        "trust=[mylab]",
    ]
    for word in same:
        assert config_hash(settings("experiment=debug", word)) == plain
    for word in ("sparsity=0.5", "seed=2", "data.test=5", "evaluation.sample=true", "run=other"):
        assert config_hash(settings("experiment=debug", word)) != plain


def test_groups_that_no_result_depends_on():
    assert {"paths", "logger", "launcher", "resume", "trust", "experience.workers"} <= set(keys_of("nothing", Config))


@pytest.mark.parametrize("seed", [20261128123456, -1])
@pytest.mark.parametrize("key", ["seed", "experience.seed"])
def test_a_seed_that_no_generator_takes_is_refused(key, seed):
    with pytest.raises(UserError, match=rf"{key}={seed}: give a whole number from 0 to 4294967295"):
        load_config(settings("experiment=debug", f"{key}={seed}"))


@pytest.mark.parametrize("group", ["task", "data", "model"])
def test_a_name_that_leads_out_of_a_folder_is_refused(group):
    with pytest.raises(UserError, match=f"{group}.name='../x'"):
        load_config(settings("experiment=debug", f"{group}.name=../x"))


def test_what_belongs_to_the_adaptation_is_known_from_what_a_later_stage_reads_itself():
    composed = settings("experiment=debug")
    shaped, command = shaping(composed, Config), of_command(composed, Config)
    assert {"seed", "experience.fraction", "budget.epochs", "trainer.batch_size", "evaluation.targets"} <= set(shaped)
    for key in (
        "trainer.accelerator",
        "trainer.threads",
        "task.name",
        "data.test",
        "pruning.windows",
        "sparsity",
        "run",
    ):
        assert key not in shaped
    assert {"run", "resume", "dry_run", "trust", "paths", "launcher", "pruning.force"} <= set(command)
    later_ones = of_later_stages(composed, Config)
    assert {"trainer.accelerator", "evaluation.sample", "sparsity"} <= set(later_ones)
    assert not any(key.startswith("experience.") for key in later_ones)
