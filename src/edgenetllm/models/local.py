"""A model in a local folder in Hugging Face's layout: its files, whether they are whole, and what identifies it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging as messages

from edgenetllm.errors import UserError
from edgenetllm.files import sha256_of

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"  # all weights in one file
INDEX_FILE = "model.safetensors.index.json"  # else: which file holds which tensor


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: the single one, else those that the index names.

    Raises UserError where there are none, or the index cannot be read.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        if any(folder.glob("*.bin")):
            raise UserError(
                f"{folder} has its weights as pickles (*.bin), which can run code and are never read; convert a copy that "
                "you trust to safetensors first: AutoModel.from_pretrained(...).save_pretrained(...)"
            )
        raise UserError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}")
    return [folder / name for name in sorted(set(_index(folder).values()))]


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> name of its file."""
    try:
        names = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(Path(name).name) for tensor, name in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX_FILE}: not a readable index of safetensors files ({error})") from None


def digest(folder: Path) -> str:
    """A hash of all that determines the model: `config.json`, the files of weights and their index, by content.

    A tokenizer is not among them: it changes calibration on text alone, which nothing stores.
    """
    described = [folder / name for name in (CONFIG_FILE, INDEX_FILE) if (folder / name).is_file()]
    files = [*described, *weight_files(folder)]
    absent = [path for path in files if not path.is_file()]
    if absent:
        raise UserError(f"{absent[0]} does not exist, and {INDEX_FILE} names it")
    return hashlib.sha256("\n".join(f"{path.name}:{content_hash(path)}" for path in files).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, once per process and version of it: a run asks several times, and 13 GB take half a minute."""
    stat = path.stat()
    return _content_hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.cache
def _content_hash(path: Path, *version: int) -> str:
    return sha256_of(path)


def check_weights(folder: Path, config: PretrainedConfig) -> None:
    """Raises UserError, which names the file, unless the weights of this configuration are there and whole.

    The headers of the files are read, not the weights: sizes of the files, the index, names and shapes of the tensors.
    """
    files = weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Path] = {}
    for path in files:
        for name, shape in header(path).items():
            shapes[name], places[name] = shape, path
    if files != [folder / SINGLE_FILE]:
        for name, file in _index(folder).items():
            if places.get(name) != folder / file:
                raise UserError(f"{folder / file} lacks the tensor {name}, which {INDEX_FILE} says it has")
    _check_shapes(folder, config, shapes, places)


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape of a safetensors file. Raises UserError for a file that is absent, cut off or none."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if size < 8 or length > size - 8:
                raise UserError(f"{path} is incomplete or no safetensors file: {size} bytes, and a header of {length}")
            facts: dict[str, Any] = json.loads(file.read(length))
        tensors = {name: fact for name, fact in facts.items() if name != "__metadata__"}
        end = 8 + length + max((int(fact["data_offsets"][1]) for fact in tensors.values()), default=0)
        shapes = {name: tuple(int(n) for n in fact["shape"]) for name, fact in tensors.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist, and {INDEX_FILE} names it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error})") from None
    if size != end:
        raise UserError(f"{path} is incomplete: {size} bytes, and its header tells of {end}")
    return shapes


def _check_shapes(
    folder: Path, config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]], places: Mapping[str, Path]
) -> None:
    """Compare shapes by transformers itself, which maps stored names to the model's, on tensors without data."""
    empty: dict[str, Tensor] = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        kind = type(transformers.AutoModel.from_config(config))
    try:
        with _quiet():
            _, info = kind.from_pretrained(
                None, config=config, state_dict=empty, device_map={"": "meta"}, dtype=torch.float32,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except RuntimeError as error:  # tensors that become one, such as the experts of a block, and do not fit together
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{folder}: tensors are missing or have other shapes than config.json says ({line})") from None
    for name, stored, expected in sorted(info["mismatched_keys"]):
        file = next((place for key, place in places.items() if key.endswith(name)), folder)
        raise UserError(f"{file}: {name} is {tuple(stored)}, and config.json makes it {tuple(expected)}")
    if info["missing_keys"]:
        some = sorted(info["missing_keys"])
        where = folder / (SINGLE_FILE if (folder / SINGLE_FILE).is_file() else INDEX_FILE)
        raise UserError(f"{where} lacks {len(some)} tensors of the model, such as {some[:3]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, transformers prints neither progress nor its report of what does not fit, which is said here."""
    level, bar = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(logging.CRITICAL)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        if bar:
            messages.enable_progress_bar()
