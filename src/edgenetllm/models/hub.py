"""A backbone from a local folder or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass as checked
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

from edgenetllm.affects import Affects
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import (
    NO_SUCH_MODEL,
    bare,
    build_decoder,
    drop_token_embedding,
    keep_layers,
    linear_layers,
)
from edgenetllm.models.label import model_label
from edgenetllm.models.local import CONFIG_FILE, check_weights, digest
from edgenetllm.models.reach import reading_options
from edgenetllm.models.source import STRICT, Backbone, embedding_rms, identity
from edgenetllm.models.text import embed, no_tokenizer, stored_tokenizer


@checked(config=STRICT)
class HubBackbone:
    """A local folder in Hugging Face's layout, or a repository of the hub. Safetensors only; no remote code."""

    name: str  # of the preset, as it is typed: model=llama2
    path: Annotated[str, Affects("nothing")]  # folder, or owner/name on the hub; `fingerprint` says what lies there
    revision: str | None = None  # commit of the hub repository
    layers: PositiveInt | None = None

    @property
    def label(self) -> str:
        return model_label({"path": self.path})

    def architecture(self) -> dict[str, Any]:
        return dict(self._config().to_dict())

    def check_files(self) -> None:
        """The files of a folder are checked here, a download by the hub's own hashes."""
        if not self._folder.is_dir():
            return
        config = self._config()
        keep_layers(config, self.layers)
        try:
            check_weights(self._folder, config)
        except UserError as error:
            raise self._unreadable(error) from None

    def fingerprint(self) -> str:
        """A hash of the files of a folder, or the commit of a repository that `revision` means now."""
        if self._folder.is_dir():
            try:
                return digest(self._folder)
            except UserError as error:
                raise self._unreadable(error) from None
        try:
            commit = extract_commit_hash(cached_file(self._source, CONFIG_FILE, **self._where()), None)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        if commit is None:
            raise UserError(f"model={self.name}: the cache of the hub does not say which commit of {self.path} it has")
        return commit

    def _config(self) -> PretrainedConfig:
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(self._source, **self._where())
        except (OSError, *NO_SUCH_MODEL) as error:
            raise self._unreadable(error) from None
        quantised = getattr(config, "quantization_config", None)
        if quantised:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else type(quantised).__name__
            raise UserError(
                f"model={self.name}: the weights at {self.path!r} are quantised ({method}), and adapters, pruning and "
                "bundles need floating point: give a folder or repository with the original weights: model.path=..."
            )
        return config

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """The chosen blocks alone, read in the type that they are stored in and cast one tensor at a time."""
        model = self._pretrained(self.layers)
        rms, stored = embedding_rms(model), bare(model)
        drop_token_embedding(stored)
        matrices = {layer.weight for layer in linear_layers(stored).values()}
        for parameter in stored.parameters():
            parameter.data = parameter.data.to(dtype if parameter in matrices else torch.float32)
        with torch.device("meta"):
            decoder = build_decoder(model.config.to_dict())
        decoder.load_state_dict(stored.state_dict(), assign=True)
        for name, buffer in stored.named_buffers():  # computed, not stored: frequencies of rotary positions
            owner, _, own = name.rpartition(".")
            setattr(decoder.get_submodule(owner), own, buffer)
        return Backbone(decoder, rms, identity(self.label, self.fingerprint(), decoder))

    def embed_text(self, text: str) -> Tensor:
        try:
            tokenizer = stored_tokenizer(self._source, self._where())
        except OSError as error:
            problem = f"has no tokenizer at {self.path!r} ({_first_line(error)}): pruning.calibration=text needs"
            raise no_tokenizer(self.name, f"{problem} tokenizer.json next to the weights") from None
        embedding = self._pretrained(layers=1).get_input_embeddings()
        return embed(text, tokenizer, embedding)

    def _pretrained(self, layers: int | None) -> PreTrainedModel:
        """The model as stored, with its token embedding, cut to its first `layers` blocks. Never reads a pickle."""
        config = self._config()
        keep_layers(config, layers)
        self.check_files()
        try:
            model, loaded = AutoModel.from_pretrained(
                self._source,
                config=config,
                use_safetensors=True,
                dtype="auto",
                output_loading_info=True,
                **self._where(),
            )
        except (OSError, RuntimeError, SafetensorError, *NO_SUCH_MODEL) as error:
            raise self._unreadable(error) from None
        if loaded["missing_keys"]:
            some = sorted(loaded["missing_keys"])[:3]
            raise UserError(
                f"model={self.name}: {self.path} lacks {len(loaded['missing_keys'])} tensors, such as {some}"
            )
        return model

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    @property
    def _source(self) -> str:
        return str(self._folder)

    def _where(self) -> dict[str, Any]:
        """Options for `from_pretrained`. Raises UserError where the hub and a copy of the repository are out of reach."""
        if self._folder.is_dir():
            return {"trust_remote_code": False}
        try:
            reading = reading_options(self.path, self.revision)
        except UserError as error:
            raise self._unreadable(error) from None
        return {"trust_remote_code": False, "revision": self.revision, **reading}

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"model={self.name}: no weights at {self.path!r} ({_first_line(error)})",
            f"Give a local folder with config.json and *.safetensors: model.path=/folder/of/{self.name}",
            "or a hub repository that you may read: model.path=owner/name model.revision=COMMIT "
            "(gated models need `hf auth login`).",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
