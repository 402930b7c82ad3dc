"""A wrong override is one sentence that names the key, with exit code 2, before anything begins; docs/reliability.md.

The whole of it is long, and runs in pieces, in this process or as a user types it:

    ROBUSTNESS_PART=3/20 python -m pytest tests/robustness -m robustness
    ROBUSTNESS_PART=3/100 ROBUSTNESS_PROCESSES=1 python -m pytest tests/robustness -m robustness
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from robustness.attempt import LIMIT_S, in_a_process, in_this_process, problem
from robustness.wrong_overrides import CONF, GRAMMAR, Wrong, branches, composed, everything, groups, keys, wrong_groups
from typed import surroundings

from edgenetllm.errors import UserError
from edgenetllm.option_schema import in_words
from edgenetllm.plain_checks import check_plain
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE
from edgenetllm.typed_checks import check_typed
from edgenetllm.typed_groups import MAY_BE_EMPTY, check_choices_typed

STEP = 600  # of all overrides, one of so many is composed by Hydra in every run of the tests


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A file, a folder, and the folder of a run, of which only the configuration is there."""
    base = tmp_path_factory.mktemp("places")
    places = {name: base / name for name in ("file", "folder", "run")}
    places["file"].write_text("no folder")
    places["folder"].mkdir()
    places["run"].mkdir()
    (places["run"] / CONFIG_FILE).write_text(yaml.safe_dump(composed()))
    (places["run"] / CHOICES_FILE).write_text(yaml.safe_dump({"task": "abr", "data": "synthetic", "trainer": "cpu"}))
    return places


@pytest.fixture(scope="module")
def wrong(places) -> list[Wrong]:
    made = everything(**places)
    assert len(made) > 3000
    return made


def sample(wrong: list[Wrong], step: int) -> list[Wrong]:
    """One of `step` of each kind, at least one."""
    by_kind: dict[str, list[Wrong]] = {}
    for one in wrong:
        by_kind.setdefault(one.kind, []).append(one)
    return [one for many in by_kind.values() for one in many[len(many) // 2 % step :: step] or many[:1]]


# The schema says what is right.
def test_every_number_has_a_range():
    """A number without both ends would be wrong for no value, and none of these tests would ask for it."""
    for key in keys():
        for branch in branches(key.schema, key.schema):
            if branch.get("type") in ("integer", "number") and "enum" not in branch and not key.is_of_lightning:
                ends = [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}]
                assert all(end & set(branch) for end in ends), (key.name, branch)


def test_what_the_files_say_is_right_by_the_schema():
    from jsonschema import Draft202012Validator

    for key in keys():
        value: Any = composed(*key.words)
        for part in key.name.split("."):
            value = value.get(part, Ellipsis) if isinstance(value, Mapping) else Ellipsis
        if value not in (Ellipsis, "???"):
            assert Draft202012Validator(key.schema).is_valid(value), (key.name, value)


def test_every_schema_has_words():
    assert not [key.name for key in keys() if "another value" in in_words(key.schema) and "anyOf" not in key.schema]


# The checks themselves, without Hydra: every third of the values; all of them are typed in the long part.
def test_each_wrong_value_is_refused_with_its_key(wrong):
    asked = [one for one in wrong if one.kind in ("type", "range", "not finite", "huge", "empty", "null")]
    assert len(asked) > 3000
    failures = [f"{one}: {why}" for one in asked[::3] if (why := refusal(one)) is not None]
    assert not failures, "\n".join(failures[:20])


def refusal(wrong: Wrong) -> str | None:
    """In what the checks fail to refuse a value; None where they do as they should."""
    *others, typed = wrong.words if wrong.stage == "train" else wrong.words[1:]  # the run
    settings = copy.deepcopy(composed(*others))
    key, _, _ = typed.lstrip("+").partition("=")
    node: Any = settings
    *above, last = key.split(".")
    for part in above:
        node = node[part]
    node[last] = OmegaConf.create({"value": value_of(typed)}).value
    if OmegaConf.is_config(node[last]):
        node[last] = OmegaConf.to_container(node[last])
    try:
        check_typed([typed], settings, set(groups()))
        check_plain(settings)
    except UserError as error:
        message = str(error)
        if "\n" in message:
            return f"several lines: {message}"
        return None if re.search(rf"(?<![\w.]){re.escape(wrong.key)}(?!\w)", message) else f"another key: {message}"
    return "accepted"


def value_of(word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word).value()


def test_each_wrong_choice_of_a_group_is_refused_with_the_options():
    for one in wrong_groups():
        group = one.key
        if group.startswith("hydra") or any("abcxyz" in word for word in one.words):  # these are Hydra's to refuse
            continue
        with pytest.raises(UserError) as error:
            check_choices_typed(list(one.words))
        assert group in str(error.value)
        assert "\n" not in str(error.value)
        assert groups()[group][0] in str(error.value)


def test_a_group_may_be_empty_where_the_defaults_say_so():
    """Those whose own default is null, and those whose section has options without a choice: logger/_options."""
    defaults = [
        one for one in OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))["defaults"] if one != "_self_"
    ]
    chosen = {
        name.removeprefix("optional "): option
        for one in defaults
        if isinstance(one, dict)
        for name, option in one.items()
    }
    always = {one.partition("/")[0] for one in defaults if isinstance(one, str) and "/" in one}
    assert set(MAY_BE_EMPTY) == {name for name, option in chosen.items() if option is None} | always
    for group in MAY_BE_EMPTY:
        assert check_choices_typed([f"{group}=null"]) == [f"{group}=[]"]


# Whole commands.
def test_a_share_of_all_in_this_process(wrong, tmp_path):
    asked = sample(wrong, STEP)
    assert {one.kind for one in asked} == {one.kind for one in wrong}
    failures = [f"{one}: {why}" for one in asked if (why := problem(one, in_this_process(one, tmp_path))) is not None]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("word", list(GRAMMAR)[::4])
def test_what_is_no_override_is_one_sentence(word, tmp_path):
    one = Wrong(GRAMMAR[word], "grammar", (word,))
    answer = in_this_process(one, tmp_path)
    assert problem(one, answer) is None, answer


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trainer.adapter_lr=inf"], "trainer.adapter_lr=inf: give a number above 0"),
        (["pruning.method=5"], "pruning.method=5: this is built from a class"),
        (["seed=100000000000000000000"], "seed=100000000000000000000: give a whole number from 0 to 4294967295"),
        (["task=null"], "task=null: there is no such option. There are abr, abr+cjs, cjs"),
        (["paths.log_dir={file}"], "paths.log_dir='{file}': {file} is a file"),
        (["paths.cache_dir=/proc/nothing"], "paths.cache_dir='/proc/nothing'"),
        (["+trainer.nonsense=1"], "trainer.nonsense is not a key"),
        (["+trainer.log_every_n_steps=abc"], "trainer.log_every_n_steps='abc': give a whole number, or null"),
        (["+callbacks.x._target_=nope.Nope"], "callbacks.x._target_=nope.Nope: there is no package nope"),
        (["engine.threads=0"], "engine.threads=0: give a whole number from 1"),
        (["recovery=masked_lora", "recovery.rank=1.5"], "recovery.rank=1.5: give a whole number from 1"),
        (["sparsity"], "'sparsity': an override is key=value"),
    ],
)
def test_a_real_process_refuses_at_once(words, named, places, tmp_path):
    filled = [word.format(**places) for word in words]
    one = Wrong(filled[-1].lstrip("+").partition("=")[0], "process", tuple(filled))
    answer = in_a_process(one, tmp_path)
    assert problem(one, answer) is None, answer
    assert named.format(**places) in answer.lines[0]
    assert answer.seconds < LIMIT_S


def test_nothing_that_takes_seconds_is_imported_to_refuse():
    """Neither torch for plain values, nor Lightning and peft for the options of any class."""
    modules = "edgenetllm.cli edgenetllm.plain_checks edgenetllm.typed_checks edgenetllm.typed_groups"
    for imported, absent in (
        (modules, "torch"),
        (f"{modules} edgenetllm.config", "lightning peft torchmetrics matplotlib torch._dynamo"),
    ):
        code = f"import sys, {imported.replace(' ', ', ')}; print(set({absent.split()}) & set(sys.modules))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.robustness
def test_all_wrong_overrides(wrong, tmp_path, capsys):
    """The part of all cases that ROBUSTNESS_PART=i/n names; with ROBUSTNESS_PROCESSES=1 each is a process of its own."""
    part, parts = map(int, os.environ.get("ROBUSTNESS_PART", "1/1").split("/"))
    attempt = in_a_process if os.environ.get("ROBUSTNESS_PROCESSES") == "1" else in_this_process
    counts: Counter[tuple[str, str]] = Counter()
    failures, slowest = [], (0.0, "")
    for one in wrong[part - 1 :: parts]:
        answer = attempt(one, tmp_path)
        why = problem(one, answer)
        if why is None and attempt is in_a_process and answer.seconds > LIMIT_S:
            why = f"more than {LIMIT_S:g} s"
        slowest = max(slowest, (answer.seconds, str(one)))
        counts[one.kind, "refused in one sentence" if why is None else why] += 1
        if why is not None:
            failures.append(f"{one}: {why}: {answer.lines[:2]}")
    with capsys.disabled():
        print(f"\npart {part}/{parts}, {attempt.__name__}; the slowest took {slowest[0]:.1f} s: {slowest[1]}")
        for (kind, what), count in sorted(counts.items()):
            print(f"{count:6} {kind:14} {what}")
    assert not failures, "\n".join(failures[:50])
