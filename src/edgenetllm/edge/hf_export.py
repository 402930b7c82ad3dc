"""A bundle as a plain checkpoint of transformers, for anybody's tools: dense, its zeros stored as zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.tensors_file import file_bytes
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder
from edgenetllm.models.decoder import bare

TASKS_FILE = "tasks.safetensors"


def export_hf(bundle: Path, folder: Path) -> dict[str, Any]:
    """Write the numbers that a bundle stands for, in float32, to `folder`, whole or not at all; returns its sizes.

    `config.json` and `model.safetensors` are the decoder, for `AutoModel.from_pretrained(folder)`; its token embedding,
    which no policy has, is a single row of zeros. `tasks.safetensors` has the networks of the tasks.

    Raises UserError for a damaged bundle and for one whose adapter was not merged.
    """
    contents = read_bundle(bundle)
    if contents.manifest.extra.get("adapter") is not None:
        raise UserError("export.format=hf needs a merged adapter: type pruning.lora=merge_then_prune")
    arrays = {name: contents.array(name) for name in contents.tensors}
    # The decoder as transformers builds it: with a token embedding, and perhaps inside another module.
    settings: dict[str, Any] = dict(contents.manifest.model)
    model: Any = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    state = {
        name.removeprefix("decoder."): torch.from_numpy(array.copy())
        for name, array in arrays.items()
        if name.startswith("decoder.")
    }
    missing, unexpected = bare(model).load_state_dict(state, strict=False)
    embedding = model.get_input_embeddings().weight
    others = [name for name in missing if bare(model).get_parameter(name) is not embedding]
    if unexpected or others:
        raise UserError(
            f"{bundle}: transformers builds another decoder of its configuration: {(unexpected + others)[:3]}"
        )
    torch.nn.init.zeros_(embedding)
    # Both files.
    tasks = {
        name: ("F32", array) for name, array in arrays.items() if name.startswith("tasks.") and array.dtype == "f4"
    }
    with atomic_folder(folder, overwrite=True) as made:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(made)
        save_file(model.state_dict(), made / "model.safetensors", {"format": "pt"})
        (made / TASKS_FILE).write_bytes(file_bytes(tasks))
        return {"bytes": sum(path.stat().st_size for path in made.iterdir())}
