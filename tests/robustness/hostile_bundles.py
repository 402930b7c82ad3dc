"""Bundles of tiny policies, and altered copies of them, with their hashes as they were or computed again."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import altered_bytes, altered_tree
from small_series import viewers
from variants import TASKS, export, make

from edgenetllm.edge.tensors_file import file_bytes, file_tensors
from edgenetllm.pruning.magnitude import prune

FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"values": "fp16", "mask": "bitmask"},
    "int8": {"values": "int8", "mask": "delta"},
    "int4": {"values": "int4", "mask": "none", "compress": "zstd"},
}
KINDS = [("llama3", "fp32", "fused"), ("gpt2", "int8", "per_feature"), ("opt", "fp16", "history"),
         ("qwen2", "int8", "fused+per_stage"), ("mistral", "int4", "pointer"), ("llama", "int8", "viewers")]  # fmt: skip

MADE = {**TASKS, "viewers": viewers}
Files = dict[str, bytes]


def bundles(folder: Path) -> list[Files]:
    """The files of a bundle of each kind, half of its weights zero."""
    contents = []
    for architecture, form, tasks in KINDS:
        policy = make(*(MADE[name]() for name in tasks.split("+")), architecture=architecture)
        with torch.no_grad():
            for name, parameter in policy.decoder.named_parameters():
                if parameter.ndim > 1 and "embed" not in name and "wpe" not in name:
                    parameter.copy_(prune(parameter, 0.5))
        place = export(policy, folder / f"{architecture}-{form}", **FORMS[form])
        contents.append({file.name: file.read_bytes() for file in place.iterdir()})
    return contents


def altered_as_it_is(files: Files, chance: random.Random) -> Files:
    """One file of the bundle altered, its hash not."""
    name = chance.choice(sorted(files))
    altered = files[name]
    while altered == files[name]:
        altered = altered_bytes(files[name], chance)
    return {**files, name: altered}


def altered_and_sealed(files: Files, chance: random.Random) -> Files:
    """The manifest, or a file of tensors and its entry, altered so that all hashes are right."""
    manifest = json.loads(files["manifest.json"])
    kind = chance.randrange(4)
    if kind == 0:
        manifest["model"] = altered_tree(manifest["model"], chance)
    elif kind == 1:
        manifest = altered_tree(manifest, chance)
    elif kind == 2:
        manifest["extra"] = altered_tree(manifest["extra"], chance)
    else:
        return _altered_tensors(files, manifest, chance)
    return {**files, "manifest.json": sealed(manifest)}


def sealed(manifest: Any) -> bytes:
    """The text of a manifest with a digest that is right."""
    if not isinstance(manifest, dict):
        return json.dumps(manifest).encode()
    fields = {name: value for name, value in manifest.items() if name != "digest"}
    return _text({**fields, "digest": hashlib.sha256(_text(fields)).hexdigest()})


def _altered_tensors(files: Files, manifest: dict[str, Any], chance: random.Random) -> Files:
    name = chance.choice(sorted(set(files) - {"manifest.json"}))
    data = files[name]
    if name.endswith(".zst") or chance.random() < 0.3:
        data = altered_bytes(data, chance)
    else:
        data = _altered_values(data, manifest, chance)
    entry = manifest["files"][name]
    entry["sha256"], entry["bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    return {**files, name: data, "manifest.json": sealed(manifest)}


def _altered_values(data: bytes, manifest: dict[str, Any], chance: random.Random) -> bytes:
    """Numbers of some tensors replaced by odd ones: NaN, infinity, the largest and the smallest."""
    stored = file_tensors(np.frombuffer(data, np.uint8), "file")
    changed = dict(stored)
    for name in chance.sample(sorted(stored), chance.choice((1, 1, 3))):
        dtype, array = stored[name]
        array = array.copy()
        flat = array.reshape(-1).view(np.uint8)
        size = array.itemsize
        if not array.size:
            continue
        odd = struct.pack("<f", chance.choice((float("nan"), float("inf"), 3e38, -3e38, 1e-40, 0.0, 1e19)))
        pattern = {4: odd, 2: chance.choice((odd[2:], b"\xff\x7b", b"\x00\x7e", b"\x00\x00"))}.get(
            size, chance.randbytes(size)
        )
        everywhere = chance.random() < 0.5
        for at in range(array.size) if everywhere else [chance.randrange(array.size)]:
            flat[at * size : (at + 1) * size] = np.frombuffer(pattern, np.uint8)
        changed[name] = (dtype, array)
    return file_bytes(changed)


def _text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(copy.deepcopy(fields), indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()
