"""W&B artifacts and who made them from what: pool -> adaptation -> pruned -> bundle.

An artifact is named by its content, so that two runs that never met (or were both offline) mean the same one: W&B keeps
one version of it, and the lineage graph joins the run that made it with those that use it. That holds as long as the
same files are in it, hence for runs with the same `logger.upload`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import wandb

Kind = Literal["pool", "adaptation", "pruned", "bundle"]


@dataclass(frozen=True)
class Described:
    """The description of an artifact. `documents` are small and always uploaded; `files` only where that is asked for."""

    kind: Kind
    task: str
    digest: str  # hex, of its content
    metadata: Mapping[str, Any]
    documents: Mapping[str, bytes]
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()  # names of other artifacts

    @property
    def name(self) -> str:
        return artifact_name(self.kind, self.task, self.digest)


def artifact_name(kind: Kind, task: str, digest: str) -> str:
    return f"{kind}-{task.replace('+', '-')}-{digest[:16]}"  # W&B takes no plus


def log_output(run: Any, described: Described, upload: bool) -> None:
    """Say that the W&B run has made this."""
    run.log_artifact(_artifact(described, upload))


def log_input(run: Any, described: Described, upload: bool) -> None:
    """Say that the W&B run uses this artifact, of any run, and whether or not W&B knows it yet.

    `Run.use_artifact` does the same with an artifact in memory, but refuses to when offline, and waits for the upload
    when online; the record that it writes is one that `wandb sync` understands.
    """
    run._log_artifact(_artifact(described, upload), is_user_created=True, use_after_commit=True)


def _artifact(described: Described, upload: bool) -> wandb.Artifact:
    import wandb

    metadata = {**described.metadata, "made_from": list(described.made_from), "files_uploaded": upload}
    artifact = wandb.Artifact(described.name, type=described.kind, metadata=metadata)
    contents: dict[str, Path | bytes] = {**described.documents, **(described.files if upload else {})}
    for name, content in contents.items():
        _add(artifact, name, content)
    return artifact


def _add(artifact: wandb.Artifact, name: str, content: Path | bytes) -> None:
    if isinstance(content, bytes):
        with artifact.new_file(name, mode="wb") as file:
            file.write(content)
    else:  # no run changes such a file again, so W&B need not copy it before the upload
        artifact.add_file(str(content), name=name, policy="immutable", skip_cache=True)
