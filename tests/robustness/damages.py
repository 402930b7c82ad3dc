"""Ways in which the folder of a finished run is damaged, and for each a part of the sentence that refuses it."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgenetllm.models.stored import HASH, REST, seal_checkpoint, values_hash

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CKPT = "checkpoints/best.ckpt"


class Opened:
    """Its pickle makes a file when it is loaded, if anybody loads it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(content) and None


def binary(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def with_code(run: Path) -> None:
    (run / CKPT).write_bytes(pickle.dumps(Opened(str(run / "opened"))))


def cut(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) // 2])

    return damage


def json_changed(name: str, change: Callable[[dict[str, Any]], None], sealed: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        facts = json.loads((run / name).read_text())
        change(facts)
        if sealed:
            facts[HASH] = values_hash({key: value for key, value in facts.items() if key not in ("adapted_in", HASH)})
        (run / name).write_text(json.dumps(facts))

    return damage


def checkpoint(change: Callable[[dict[str, Any]], Any], sealed: bool = True) -> Callable[[Path], None]:
    """The checkpoint with a change, sealed again, or without a seal as older versions wrote it."""

    def damage(run: Path) -> None:
        content = torch.load(run / CKPT, weights_only=True)
        change(content)
        if sealed:
            seal_checkpoint(content)
        else:
            del content[HASH], content[REST]
        torch.save(content, run / CKPT)

    return damage


def first(content: dict[str, Any], value: Any) -> None:
    content["state_dict"][next(iter(content["state_dict"]))] = value


def half_nan(content: dict[str, Any]) -> None:
    next(iter(content["state_dict"].values())).view(-1)[0] = float("nan")


def compressed_checkpoint(run: Path) -> None:
    """The same entries, deflated: a few bytes could stand for any number of zeros."""
    with zipfile.ZipFile(run / CKPT) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    (run / CKPT).write_bytes(buffer.getvalue())


def folder_instead(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def pipe_instead(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return damage


Damage = tuple[Callable[[Path], None], str]  # what is done to the folder, and a part of the sentence
CONFIG, CHOICES, FACTS, RESULTS = "config.yaml", "choices.yaml", "adaptation.json", "abr/results.json"
NOT_PLAIN = "not a plain YAML file: line 1"

CONFIGURATIONS: dict[str, Damage] = {
    "billion laughs": (text(CONFIG, LAUGHS), f"{CONFIG}: {NOT_PLAIN} has an anchor"),
    "choices with an anchor": (text(CHOICES, "task: &a abr\ndata: *a\n"), f"{CHOICES}: {NOT_PLAIN} has an anchor"),
    "deep nesting": (text(CONFIG, f"a: {'[' * 900}{']' * 900}"), f"{CONFIG}: {NOT_PLAIN} is nested"),
    "a python object": (text(CONFIG, "a: !!python/object/apply:os.getcwd []"), f"{NOT_PLAIN} has a tag"),
    "no utf-8": (binary(CONFIG, b"a: \xff\xfe"), f"{CONFIG}: not a plain YAML file"),
    "an empty configuration": (text(CONFIG, ""), f"{CONFIG} is not a configuration"),
    "a list of choices": (text(CHOICES, "[task, data]"), f"{CHOICES} is not a configuration"),
    "a large configuration": (text(CONFIG, "a: b\n" * 60_000), f"{CONFIG}: larger than"),
    "a configuration cut off": (text(CONFIG, "task:\n  name: 'ab"), f"{CONFIG}: not a plain YAML file"),
    "a key twice": (text(CONFIG, "seed: 1\nseed: 2\n"), "a key occurs twice"),
    "a group that is none": (text(CONFIG, "task: 3\ndata: 4\nmodel: 5\n"), "it is not the configuration of a run"),
    "no task": (text(CONFIG, "seed: 1\n"), "task is missing: it is not the configuration of a run"),
    "an escape in a choice": (text(CHOICES, 'task: "\\e[2Jabr"\n'), "is no choice of a config group"),
}
ADAPTATIONS: dict[str, Damage] = {
    "facts cut off": (cut(FACTS), f"{FACTS}: not JSON"),
    "facts that are a list": (text(FACTS, "[1, 2]"), f"{FACTS} is damaged"),
    "facts nested without end": (text(FACTS, "[" * 100_000), f"{FACTS}: nested deeper"),
    "facts without a type": (json_changed(FACTS, lambda f: f.pop("bf16"), True), f"{FACTS} is damaged: bf16"),
    "a return without end": (text(FACTS, '{"target_return": 1e999}'), f"{FACTS}: not JSON: a number is"),
    "a pipe of facts": (pipe_instead(FACTS), FACTS),
}
CHECKPOINTS: dict[str, Damage] = {
    "an adaptation elsewhere": (json_changed(FACTS, lambda f: f.update(adapted_in="/etc")), "adapted_in is no path"),
    "a checkpoint cut off": (cut(CKPT), "best.ckpt is not a readable checkpoint"),
    "a checkpoint of text": (text(CKPT, "tensors"), "best.ckpt is not a readable checkpoint"),
    "a checkpoint with code": (with_code, "best.ckpt is not a readable checkpoint"),
    "a checkpoint that is compressed": (compressed_checkpoint, "an entry is compressed"),
    "numbers without end": (
        checkpoint(lambda c: first(c, torch.zeros(1).expand(10**10)), False),
        "has not all numbers",
    ),
    "a checkpoint of another shape": (checkpoint(lambda c: first(c, torch.zeros(3))), "does not fit this model"),
    "a checkpoint with NaN": (checkpoint(half_nan), "the checkpoint is not finite"),
    "a checkpoint without tensors": (checkpoint(lambda c: first(c, [1, 2])), "its state_dict is not what it should be"),
    "a checkpoint that is a folder": (folder_instead(CKPT), "best.ckpt"),
}
OUTCOMES: dict[str, Damage] = {
    "results cut off": (cut(RESULTS), "results.json: not JSON"),
    "results of another version": (json_changed(RESULTS, lambda f: f.update(schema=9)), "this version reads 1"),
    "results without sizes": (json_changed(RESULTS, lambda f: f["bundle"].pop("bytes")), "results.json: bundle: bytes"),
    "an unknown stage": (json_changed(RESULTS, lambda f: f.update(stage="x")), "results.json: stage"),
}
PLAYED: dict[str, Damage] = {  # found where the bundle is played
    "layers of another model": (
        json_changed(RESULTS, lambda f: f["pruning"]["layers"].update(x={"zeros": 1, "weights": 2})), "no such matrix"
    ),
}  # fmt: skip
WITH_RUN = {**CONFIGURATIONS, **ADAPTATIONS, **CHECKPOINTS, **OUTCOMES, **PLAYED}
READ_BY = {  # command -> the damages that it meets
    "evaluate": [*WITH_RUN],
    "prune": [*CONFIGURATIONS, *ADAPTATIONS, *CHECKPOINTS, *OUTCOMES],
    "specialise": [*CONFIGURATIONS, *ADAPTATIONS, *OUTCOMES],
}
