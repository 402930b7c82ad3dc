"""Public data sets: found under `paths.data_dir`, else fetched from their source at a pinned commit, checked by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests
from filelock import FileLock

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, remove_abandoned, sha256_of
from edgenetllm.progress import tqdm
from edgenetllm.tasks.archive import PIECE, BadArchive, wanted_members

CODELOAD = "https://codeload.github.com"
LARGEST_DOWNLOAD = 4 * 2**30  # bytes


@dataclass(frozen=True)
class Source:
    """A folder of a public repository. `sha256` is over the paths and bytes of the files kept, see `content_hash`."""

    repository: str  # owner/name
    commit: str
    path: str  # folder inside the repository
    files: int
    sha256: str
    damaged: tuple[str, ...] = ()  # files that are published with nonsense in them, and never read
    every: int = 1  # keep every n-th file of the sorted paths
    keep: tuple[str, ...] = ("*",)  # patterns of the files kept, relative to `path`; "*" does not reach into subfolders
    names: tuple[str, ...] = ()  # of the files, where they follow a rule, so that what is missing can be said
    instead: str = "data=synthetic needs no download, data=folder reads your own"


def find(folder: Path, source: Source, base_url: str = CODELOAD) -> Path:
    """`folder`, fetched first if it is not there.

    Raises UserError when it can neither be found nor fetched, or when its content is not the pinned one.
    """
    if not folder.is_dir():
        cache = Path(pooch.os_cache("edgenetllm"))
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "fetch.lock"):
            if not folder.is_dir():  # another process may have fetched it meanwhile
                remove_abandoned(folder.parent)
                _fetch(folder, source, base_url)
    digest = content_hash(folder, source.keep)
    if digest != source.sha256:
        absent = [name for name in source.names if not (folder / name).is_file()]
        if absent:
            raise UserError(f"{folder} lacks {len(absent)} of {source.files} files, such as {', '.join(absent[:3])}")
        raise UserError(
            f"{folder} is not the pinned data set: {len(_files(folder, source.keep))} files of content {digest[:12]}, "
            f"expected {source.files} of {source.sha256[:12]}. Delete the folder to fetch it again; {source.instead}."
        )
    return folder


def content_hash(folder: Path, keep: Sequence[str] = ("*",)) -> str:
    """SHA-256 over the sorted (relative path, SHA-256 of the bytes) of the files of a folder that `keep` names."""
    return _joined((name, sha256_of(folder / name)) for name in _files(folder, keep))


def hash_of_files(files: Iterable[tuple[str, bytes]]) -> str:
    """The `content_hash` of (relative path, bytes) in the order of the paths."""
    return _joined((name, hashlib.sha256(content).hexdigest()) for name, content in files)


def _joined(hashes: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for name, one in hashes:
        digest.update(f"{name}\0{one}\n".encode())
    return digest.hexdigest()


def _files(folder: Path, keep: Sequence[str]) -> list[str]:
    """Sorted relative paths, with slashes, of the plain files that `keep` names."""
    inside = ((path, PurePosixPath(path.relative_to(folder).as_posix())) for path in folder.rglob("*"))
    return sorted(str(relative) for path, relative in inside if _matches(relative, keep) and path.is_file())


def _matches(relative: PurePosixPath, keep: Sequence[str]) -> bool:
    """True where a pattern matches, component by component. Hidden names never do, nor what could lead out of a folder, nor
    what is no usual name."""
    for component in relative.parts:
        odd = component.startswith((".", "/")) or "\\" in component or ":" in component
        if odd or not component.isprintable() or len(component) > 100:
            return False
    if str(relative) in keep:  # a name: a set of many is searched at once
        return True
    patterns = [p for p in keep if "*" in p]
    return any(len(PurePosixPath(p).parts) == len(relative.parts) and relative.match(p) for p in patterns)


def _fetch(folder: Path, source: Source, base_url: str) -> None:
    url = f"{base_url}/{source.repository}/tar.gz/{source.commit}"
    try:
        archive = _download(url, source)
    except (requests.RequestException, OSError) as error:
        raise UserError(
            f"no data at {folder}, and {url} cannot be fetched ({type(error).__name__}).",
            f"Either connect to the network, or put the {source.files} files of {source.path} of "
            f"github.com/{source.repository} (commit {source.commit[:12]}) there yourself; EDGENETLLM_DATA=/folder or "
            f"paths.data_dir=/folder says where data lies. Otherwise, {source.instead}.",
        ) from None
    try:
        files = _wanted(archive, source)
        with atomic_folder(folder) as temporary:
            for name, data in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(data)
            if content_hash(temporary, source.keep) != source.sha256:
                raise BadArchive(f"the files of {source.path} are not the pinned ones (sha256 differs)")
    except BadArchive as error:
        archive.unlink(missing_ok=True)  # else every retry would meet the same archive
        raise UserError(
            f"{url} did not send the data set: {error}; nothing was kept, so that the next run fetches it again"
        ) from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from None


def _download(url: str, source: Source) -> Path:
    """The archive, kept with other downloads: several data sets come from one repository."""
    name = f"{source.repository.replace('/', '-')}-{source.commit[:12]}.tar.gz"
    path = pooch.retrieve(
        url, known_hash=None, fname=name, path=pooch.os_cache("edgenetllm"), progressbar=True, downloader=_save
    )
    return Path(path)


def _save(url: str, output: str, _: object) -> None:
    """Download `url` to the file `output`. Raises requests' exceptions, and OSError for more than `LARGEST_DOWNLOAD`."""
    with requests.get(url, stream=True, timeout=30) as reply, open(output, "wb") as file:
        reply.raise_for_status()
        total = int(reply.headers.get("Content-Length", "0")) or None
        with tqdm(total=total, desc=f"fetching {url}", unit="B", unit_scale=True) as bar:
            for piece in reply.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > LARGEST_DOWNLOAD:
                    raise OSError(f"more than {LARGEST_DOWNLOAD} bytes")


def _wanted(archive: Path, source: Source) -> dict[str, bytes]:
    """Path relative to the source's folder -> bytes, of the files that are kept. Raises BadArchive."""
    subfolder = PurePosixPath(source.path)

    def name_of(name: str) -> str | None:
        inside = PurePosixPath(*PurePosixPath(name).parts[1:])  # without the archive's top folder
        if not inside.is_relative_to(subfolder):
            return None
        relative = inside.relative_to(subfolder)
        return str(relative) if _matches(relative, source.keep) and relative.suffix != ".pkl" else None

    members = dict(tqdm(wanted_members(archive, name_of), desc=f"reading {source.path}", unit=" files"))
    return {name: members[name] for name in sorted(members)[:: source.every]}
