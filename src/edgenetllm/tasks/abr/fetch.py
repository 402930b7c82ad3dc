"""Public data sets: found under `paths.data_dir`, else fetched from their source at a pinned commit, checked by content."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder

CODELOAD = "https://codeload.github.com"


@dataclass(frozen=True)
class Source:
    """A folder of a public repository. `sha256` is over the names and bytes of the files kept, see `content_hash`."""

    repository: str  # owner/name
    commit: str
    path: str  # folder inside the repository
    files: int
    sha256: str
    damaged: tuple[str, ...] = ()  # files that are published with nonsense in them, and never read
    every: int = 1  # keep every n-th file of the sorted names


def find(folder: Path, source: Source, base_url: str = CODELOAD) -> Path:
    """`folder`, fetched first if it is not there.

    Raises UserError when it can neither be found nor fetched, or when its content is not the pinned one.
    """
    if not folder.is_dir():
        cache = Path(pooch.os_cache("edgenetllm"))
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "fetch.lock"):
            if not folder.is_dir():  # another process may have fetched it meanwhile
                _fetch(folder, source, base_url)
    found = content_hash(folder)
    if found != source.sha256:
        raise UserError(
            f"{folder} is not the pinned data set: {len(list(folder.iterdir()))} files of content {found[:12]}, expected "
            f"{source.files} of {source.sha256[:12]}. Delete the folder to fetch it again, or use data=folder for your own."
        )
    return folder


def content_hash(folder: Path) -> str:
    """SHA-256 over the sorted (name, SHA-256 of the bytes) of the plain, visible files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _fetch(folder: Path, source: Source, base_url: str) -> None:
    url = f"{base_url}/{source.repository}/tar.gz/{source.commit}"
    try:
        archive = _download(url, source)
    except (requests.RequestException, OSError) as error:
        raise UserError(
            f"no data at {folder}, and {url} cannot be fetched ({type(error).__name__}).\n"
            f"Either connect to the network, or put the {source.files} files of {source.path} of "
            f"github.com/{source.repository} (commit {source.commit[:12]}) there yourself; EDGENETLLM_DATA=/folder or "
            f"paths.data_dir=/folder says where data lies. data=synthetic needs no download."
        ) from None
    try:
        with atomic_folder(folder) as temporary:
            _extract(archive, source, temporary)
            if content_hash(temporary) != source.sha256:
                raise UserError(f"{url}: the files of {source.path} are not the pinned ones (sha256 differs)")
    except (tarfile.TarError, EOFError, UserError) as error:
        archive.unlink()  # else every retry would meet the same archive
        reason = error if isinstance(error, UserError) else f"{url} did not send an archive ({error})"
        raise UserError(f"{reason}; nothing was kept") from None


def _download(url: str, source: Source) -> Path:
    """The archive, kept beside other downloads: several data sets come from one repository."""
    name = f"{source.repository.replace('/', '-')}-{source.commit[:12]}.tar.gz"
    path = pooch.retrieve(
        url, known_hash=None, fname=name, path=pooch.os_cache("edgenetllm"), progressbar=True,
        downloader=pooch.HTTPDownloader(timeout=30, progressbar=True),
    )  # fmt: skip
    return Path(path)


def _extract(archive: Path, source: Source, target: Path) -> None:
    """Plain files directly inside the wanted folder, by their last name only: no path of the archive is used."""
    wanted = PurePosixPath(source.path)
    with tarfile.open(archive) as tar:
        members = {}
        for member in tqdm(tar, desc=f"reading {source.path}", unit=" files"):
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and inside.parent == wanted and not inside.name.startswith("."):
                members[inside.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    for name in sorted(name for name in members if not name.endswith(".pkl"))[:: source.every]:
        (target / name).write_bytes(members[name])
