"""Overrides that are wrong, each in one way, made from the schema of the configuration: no list of keys is kept here.

A key is a field of the sections (`Settings`) or of the class that a group's `_target_` names, for every option of the group.
A value is wrong for it where its JSON schema says so. jsonschema judges that, not pydantic, which judges it in the program.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from hydra import compose, initialize_config_dir
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from small import ROOT

from edgenetllm.affects import target_class
from edgenetllm.nodes import describe
from edgenetllm.option_schema import fields_of, schema_of
from edgenetllm.plain_checks import GROUPS_OF_OBJECTS
from edgenetllm.section_checks import REQUIRED_CALLBACKS
from edgenetllm.sections import Settings
from edgenetllm.trainer_options import REFUSED
from edgenetllm.typed_groups import MAY_BE_EMPTY

CONF = ROOT / "conf"
OPEN = ("callbacks", "logger", "module", "trainer")  # sections that also take nodes and arguments of other classes
RUN = "run=..."  # in the words of a stage that starts from a run
# As it is typed -> what Hydra reads.
VALUES: dict[str, Any] = {
    "abc": "abc",
    "''": "",
    "null": None,
    "true": True,
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
    "1e20": 1e20,
    "100000000000000000000": 10**20,
    "[]": [],
    "[abc]": ["abc"],
    "{a: 1}": {"a": 1},
}
KINDS = {"''": "empty", "null": "null", "inf": "not finite", "-inf": "not finite", "nan": "not finite",
         "1e20": "huge", "100000000000000000000": "huge", "-1": "range", "0": "range", "1.5": "range"}  # fmt: skip


GRAMMAR = {  # word -> what the sentence has to name
    "sparsity": "sparsity",
    "=1": "=1",
    "sparsity=[1": "sparsity",
    "sparsity={": "sparsity",
    "sparsity='x": "sparsity",
    "sparsity=1)": "sparsity",
    "sparsity=a=b": "sparsity",
    "sparsity==0.4": "sparsity",
    "sparsity=0,0.4": "sparsity",  # a sweep without -m
    "sparsity=range(1,3)": "sparsity",
    "sparsity=glob(*)": "sparsity",
    "+sparsity=0.4": "sparsity",  # is there already
    "~sparsity": "sparsity",
    "~nothing": "nothing",
    "sparsity=${nope}": "nope",
    "sparsity=${": "sparsity",
    "sparsity=${oc.env:NOT_SET}": "NOT_SET",
    "trainer.batch_size=${seed}x": "trainer.batch_size",
    "spar sity=1": "spar",
    "sparsity.x=1": "sparsity",
    "+sparsity.x=1": "sparsity",
    "a.b.c=1": "a.b.c",
    "+a.b.c=1": "a",
    "task.abr.name=abr": "task.abr",
    "data@data.abr=nothing": "data@data.abr",
    "++=1": "++",
    "@=": "@",
}


@dataclass(frozen=True)
class Wrong:
    """Words that one stage must refuse with a sentence that names `key`, and the kind of what is wrong."""

    key: str
    kind: str
    words: tuple[str, ...]
    stage: str = "train"

    def __str__(self) -> str:
        return f"{self.stage}: {' '.join(word if len(word) < 80 else f'{word[:60]}...' for word in self.words)}"


@dataclass(frozen=True)
class Key:
    """An option as it is typed, its JSON schema, and the words that choose the options of groups which have it."""

    name: str
    schema: Mapping[str, Any]
    words: tuple[str, ...] = ()
    is_typed_with_plus: bool = False
    is_of_lightning: bool = False


@functools.cache
def composed(*words: str) -> dict[str, Any]:
    """The configuration that these words compose, resolved."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        container = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    assert isinstance(container, dict)
    return {str(name): node for name, node in container.items()}


def groups() -> dict[str, list[str]]:
    """Group -> its options; those that begin with _ are what others share."""
    folders = sorted({path.parent for path in CONF.glob("*/*.yaml")})
    return {one.name: sorted(path.stem for path in one.glob("*.yaml") if path.stem[0] != "_") for one in folders}


# Keys.
def keys() -> list[Key]:
    """Every option of every section and class, once."""
    found = {key.name: key for key in [*_section_keys(Settings, "", composed("replay=player")), *_trainer_keys()]}
    for words in _choices():
        settings = composed(*words)
        nodes = {group: settings[group] for group in GROUPS_OF_OBJECTS}
        experts = settings["experience"]["expert"] or {}
        nodes |= {f"experience.expert.{task}": node for task, node in experts.items()}
        for path, node in nodes.items():
            for key in _node_keys(path, node, tuple(words)):
                kind = target_class(node)
                found.setdefault(f"{key.name} of {kind.__qualname__ if kind else ''}", key)
    return list(found.values())


def _choices() -> Iterator[list[str]]:
    """The words for every option of every group of objects, with what its file says must be typed with it."""
    yield []
    for group, options in groups().items():
        for option in options if group in (*GROUPS_OF_OBJECTS, "experience") else []:
            first = (CONF / group / f"{option}.yaml").read_text().partition("\n")[0]
            needed = re.findall(r"Type (\S+=\S+) with it", first)
            task = re.search(r"For task=([a-z+]+)", first) if group == "data" else None
            if "+" in option:  # of several tasks: their options are those of each
                continue
            words = [f"{group}={option}", *(word for word in needed if "experience.folder" not in word)]
            yield [*words, *([f"task={task[1]}"] if task else [])]
    yield ["task=cjs", "data=folder"]
    yield ["task=cjs", "experience=expert"]


def _section_keys(owner: Any, prefix: str, node: Mapping[str, Any]) -> Iterator[Key]:
    """The options of a section, `node` in the configuration, and of the sections in it."""
    for name, field in fields_of(owner).items():
        inner = next(
            (one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")), None
        )
        schema = schema_of(field)
        is_group = inner is not None and prefix == "" and name in groups()
        if schema and not is_group:
            yield Key(f"{prefix}{name}", schema, ("replay=player",) if prefix == "replay." else (), name not in node)
        if inner is not None and name in node and node[name] is not None:
            yield from _section_keys(inner, f"{prefix}{name}.", node[name])


def _node_keys(path: str, node: Any, words: tuple[str, ...]) -> Iterator[Key]:
    """The options of the class of a node, and of nodes inside of it."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    for name, field in fields_of(target_class(node)).items():
        schema = schema_of(field)
        if name in node and isinstance(node[name], Mapping) and "_target_" in node[name]:
            yield from _node_keys(f"{path}.{name}", node[name], words)
        elif schema:
            yield Key(f"{path}.{name}", schema, words, is_typed_with_plus=name not in node)


def _trainer_keys() -> Iterator[Key]:
    """The arguments of Lightning's Trainer whose types its signature says, and that a command may add."""
    described = describe("lightning.Trainer")
    assert described is not None
    own = fields_of(Settings)["trainer"].annotation
    for name, kind in described.arguments.types.items():
        if name not in REFUSED and name not in fields_of(own):
            schema = {"anyOf": [TypeAdapter(kind).json_schema(), {"type": "null"}]}  # null: it is not added
            yield Key(f"trainer.{name}", schema, is_typed_with_plus=True, is_of_lightning=True)


# Wrong values.
def wrong_values() -> Iterator[Wrong]:
    """Values of the wrong type, out of range, not finite, huge, empty or null."""
    for key in keys():
        for typed, value in VALUES.items():
            if is_wrong(value, key.schema):
                yield _wrong(key, KINDS.get(typed, "type"), _word(key, typed))


def _wrong(key: Key, kind: str, word: str, named: str = "") -> Wrong:
    """An override of a key, for the stage that has it; RUN stands for the folder of a run."""
    if key.name == "specialise" or key.name.startswith("specialise."):
        return Wrong(named or key.name, kind, (RUN, *key.words, word), "specialise")
    if key.name.startswith("replay."):  # the player starts from a run
        return Wrong(named or key.name, kind, (RUN, *key.words, word), "evaluate")
    return Wrong(named or key.name, kind, (*key.words, word))


def _word(key: Key, typed: str) -> str:
    return f"{'+' if key.is_typed_with_plus else ''}{key.name}={typed}"


def is_wrong(value: Any, schema: Mapping[str, Any]) -> bool:
    """True where the JSON schema does not accept a value; false too where it says nothing."""
    kinds = {branch.get("type") for branch in branches(schema, schema)}
    if None in kinds and not any({"enum", "const"} & set(branch) for branch in branches(schema, schema)):
        return False
    if "boolean" in kinds and value in (0, 1) and not isinstance(value, bool):
        return False  # read as false and true
    if isinstance(value, float) and not math.isfinite(value):
        return True  # JSON has no such numbers
    return not Draft202012Validator(schema).is_valid(value)


def branches(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a JSON schema."""
    if "$ref" in schema:
        return branches(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    return [one for inner in schema["anyOf"] for one in branches(inner, whole)] if "anyOf" in schema else [schema]


# Names, groups, paths, classes, grammar.
def typos() -> Iterator[Wrong]:
    """Each key without a letter, typed as it stands and, where Hydra would add it, with a plus."""
    for key in keys():
        above, _, name = key.name.rpartition(".")
        mistyped = f"{above}.{name[:-2]}{name[-1]}x".lstrip(".")
        yield _wrong(key, "typo", f"{mistyped}=1", mistyped)
        if above.partition(".")[0] not in ("callbacks", "logger") or key.name.count(".") < 2:
            yield _wrong(key, "typo, added", f"+{mistyped}=1", mistyped)


def wrong_groups() -> Iterator[Wrong]:
    """Choices that are none; a group that may be empty takes null and []."""
    for group in [*groups(), "hydra", "hydra/launcher", "hydra/sweeper"]:
        empty = [] if group in MAY_BE_EMPTY else ["null", "[]"]
        for typed in [*empty, "''", "5", "1.5", "true", "abcxyz", "{a: 1}", "[5]", "../budget/quick", "/etc/passwd"]:
            kind = "group=null" if typed == "null" else "group"
            yield Wrong(group, kind, (f"{group}={typed}",))
        if group not in MAY_BE_EMPTY and "/" not in group and group != "hydra":
            yield Wrong(group, "group, left out", (f"~{group}",))


def wrong_paths(file: Path, folder: Path) -> Iterator[Wrong]:
    """Paths that cannot be used, for every key whose schema says that it holds one; `file` and `folder` are there."""
    for key in keys():
        formats = {branch.get("format") for branch in branches(key.schema, key.schema)} & set(_PATHS)
        for one in formats:
            for typed in _PATHS[one](str(file), str(folder)):
                yield _wrong(key, "path", _word(key, typed))
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        for typed in _PATHS["writable-folder"](str(file), str(folder)):
            yield Wrong(key, "path", (f"{key}={typed}",))


LONG = ["x" * 300, "x/" * 2500, "x" * 5000]
_IN_THE_WAY = ["{file}", "{file}/below"]


def _paths_of(*patterns: str) -> Any:
    return lambda file, folder: [one.format(file=file, folder=folder) for one in (*patterns, *LONG)]


_PATHS = {
    "folder": _paths_of(*_IN_THE_WAY),
    "writable-folder": _paths_of(*_IN_THE_WAY, "/proc/nothing"),
    "existing-folder": _paths_of(*_IN_THE_WAY, "{folder}/nothing"),
    "existing-path": _paths_of("{file}/below", "{folder}/nothing"),
    "existing-file": _paths_of("{file}/below", "{folder}", "{folder}/nothing"),
    "path-or-name": _paths_of("{folder}/nothing"),
}


def wrong_classes() -> Iterator[Wrong]:
    """Classes that are not there or of another kind, and arguments that they do not take."""
    seen = set()
    for words in [[], ["logger=many"], ["experience=expert"], *_choices()]:
        for path, node in _targets(composed(*words), ""):
            if path in seen or (path.startswith("experience.expert.") and "experience=expert" not in words):
                continue
            seen.add(path)
            for typed in ("nope.Nope", "5", "abc", "os.getcwd2", "edgenetllm.errors.Nothing", "a..b", "null"):
                yield Wrong(f"{path}._target_", "class", (*words, f"{path}._target_={typed}"))
            if path.partition(".")[0] in OPEN and path != "trainer" and not _takes_any(node):
                yield Wrong(f"{path}.nonsense", "argument", (*words, f"+{path}.nonsense=1"))
    for group, other in (
        ("callbacks", "lightning.pytorch.loggers.CSVLogger"),
        ("logger", "lightning.pytorch.callbacks.Timer"),
    ):
        for typed in (
            "nope.Nope",
            "5",
            "abc",
            "lightning.pytorch.callbacks.Timr",
            other,
            "edgenetllm.printable.single_line2",
        ):
            yield Wrong(f"{group}.x._target_", "class", (f"+{group}.x._target_={typed}",))
        yield Wrong(f"{group}.x", "argument", (f"+{group}.x=5",))
        yield Wrong(f"{group}.x", "argument", (f"+{group}.x.y=1",))
    yield Wrong("trainer.nonsense", "argument", ("+trainer.nonsense=1",))
    yield Wrong("trainer.max_epochs", "argument", ("trainer.max_epochs=abc",))
    for name in REFUSED:
        yield Wrong(f"trainer.{name}", "argument", (f"+trainer.{name}=1",))
    for name in REQUIRED_CALLBACKS:
        yield Wrong(f"callbacks.{name}", "argument", (f"callbacks.{name}=null",))


def _takes_any(node: Mapping[str, Any]) -> bool:
    """True for a class that takes arguments of any name."""
    described = describe(node["_target_"])
    return described is not None and described.arguments.open


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where nodes with a `_target_` are, and the nodes."""
    if isinstance(node, Mapping):
        if "_target_" in node and path:
            yield path, node
        for name, inner in node.items():
            yield from _targets(inner, f"{path}.{name}".lstrip("."))


def wrong_grammar() -> Iterator[Wrong]:
    """Words that are no override, or name nothing."""
    for word, key in GRAMMAR.items():
        yield Wrong(key, "grammar", (word,))


def of_other_stages() -> Iterator[Wrong]:
    """One wrong value of each key, for the commands that start from a run."""
    for number, key in enumerate(keys()):
        stage = ("prune", "evaluate", "specialise")[number % 3]
        typed = next((typed for typed, value in VALUES.items() if is_wrong(value, key.schema)), None)
        if typed is not None and not key.name.startswith("specialise"):
            yield Wrong(key.name, "of a run", (RUN, *key.words, _word(key, typed)), stage)


def everything(file: Path, folder: Path, run: Path) -> list[Wrong]:
    """All of them; `file` and `folder` are there, `run` is the folder of a run."""
    of_a_start = [wrong_values(), typos(), wrong_groups(), wrong_paths(file, folder), wrong_classes(), wrong_grammar()]
    made = dict.fromkeys(wrong for maker in [*of_a_start, of_other_stages()] for wrong in maker)
    return [replace(one, words=tuple(f"run={run}" if word == RUN else word for word in one.words)) for one in made]
