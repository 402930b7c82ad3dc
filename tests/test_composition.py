"""With `run=`, the settings are those of that run, and only what was typed is replaced."""

from __future__ import annotations

import pytest
import yaml
from hydra import compose, initialize_config_dir
from test_config import CONF, settings

from edgenetllm.composition import follows_seed, insert_choices, settings_of, settings_of_run
from edgenetllm.errors import UserError
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE


@pytest.fixture
def parent(tmp_path):
    """The folder of a run that learnt at other rates than the default's."""
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump(settings("trainer.adapter_lr=1e-3", "trainer.threads=1")))
    (tmp_path / CHOICES_FILE).write_text(yaml.safe_dump({"trainer": "cpu"}))
    return tmp_path


def test_what_shaped_an_adaptation_stays_where_its_group_is_typed(parent):
    found = settings_of_run(parent, settings("trainer=gpu"), {"trainer": "gpu"}, ["trainer=gpu"])
    assert found["trainer"]["accelerator"] == "gpu"
    assert found["trainer"]["adapter_lr"] == 1e-3


def test_a_key_that_shaped_nothing_is_replaced(parent):
    word = "trainer.threads=2"
    assert settings_of_run(parent, settings(word), {"trainer": "cpu"}, [word])["trainer"]["threads"] == 2
    word = "experience.workers=1"
    assert settings_of_run(parent, settings(word), {"trainer": "cpu"}, [word])["experience"]["workers"] == 1


def test_a_training_starts_from_no_run(parent):
    with pytest.raises(UserError, match=r"train\.py starts a new run"):
        insert_choices("train", ["train.py", f"run={parent}"])


def test_a_command_goes_on_from_one_run(parent, tmp_path):
    both = f"run={parent},{tmp_path / 'other'}"
    with pytest.raises(UserError, match=r"goes on from one run.*type it once for each run"):
        insert_choices("prune", ["prune.py", "-m", both, "sparsity=0.4,0.6"])
    with pytest.raises(UserError, match="not the folder of a run"):
        insert_choices("prune", ["prune.py", f"run={tmp_path / 'other'}"])


def test_what_a_sweep_of_config_dir_varies_is_not_taken_from_the_run(parent):
    (parent / CHOICES_FILE).write_text(yaml.safe_dump({"trainer": "cpu", "pruning": "wanda"}))
    own = parent / "own"
    (own / "sweep").mkdir(parents=True)
    (own / "sweep" / "methods.yaml").write_text("hydra: {sweeper: {params: {pruning: 'magnitude,ria'}}}")
    words = ["prune.py", f"--config-dir={own}", "-m", f"run={parent}", "sweep=methods"]
    insert_choices("prune", words)
    assert words[3:] == [f"run={parent}", "trainer=cpu", "sweep=methods"]


@pytest.mark.parametrize(
    "word",
    ["seed=2", "model.layers=3", "adapter.alpha=64", "experience.fraction=0.1", "budget.epochs=7",
     "trainer.batch_size=4", "trainer.adapter_lr=2e-3", "callbacks.patience=3"],
)  # fmt: skip
def test_what_shaped_an_adaptation_is_not_typed_again(parent, word):
    with pytest.raises(UserError, match="shapes an adaptation"):
        settings_of_run(parent, settings(word), {"trainer": "cpu"}, [word])


def test_its_own_value_may_be_typed(parent):
    word = "trainer.adapter_lr=1e-3"
    assert settings_of_run(parent, settings(word), {"trainer": "cpu"}, [word])["trainer"]["adapter_lr"] == 1e-3


@pytest.fixture
def composed():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("config", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["model=small_transformer"], ["model.seed"]),
        (["model=small_transformer", "model.seed=7"], []),
        (["model=tiny"], []),
    ],
)
def test_options_that_follow_the_seed_are_known_from_those_that_are_typed(composed, words, keys):
    assert follows_seed(composed(*words)) == keys


def test_a_home_folder_is_expanded_wherever_it_is_followed(composed, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGENETLLM_CACHE", "~/cache")
    config = composed("paths.data_dir='~/data'", "data=fcc")
    found, _ = settings_of(config, config.hydra)
    assert found["paths"]["cache_dir"] == str(tmp_path / "cache")
    assert found["model"]["folder"] == str(tmp_path / "cache" / "backbones")
    assert found["data"]["data_dir"] == str(tmp_path / "data")
