"""Fetching a data set from a (local) web server: what is right arrives whole, what is wrong leaves nothing behind."""

import dataclasses
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks import fetch
from edgenetllm.tasks.fetch import Source, content_hash, find

FILES = {"a": b"0 1\n1 2\n", "b": b"0 3\n1 4\n", "c": b"0 5\n1 6\n"}


def hash_of(files):
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return digest.hexdigest()


SOURCE = Source("owner/traces", "0123456789abcdef", "data/train", len(FILES), hash_of(FILES))


def archive(members):
    """A tar.gz as GitHub makes them: everything in one top folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def repository(files=FILES, extra=()):
    top = "traces-0123456789abcdef"
    wanted = {f"{top}/data/train/{name}": data for name, data in files.items()}
    return archive({f"{top}/README": b"hello", f"{top}/data/test/a": b"9 9\n", **wanted, **dict(extra)})


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """`serve(bytes)` offers an archive at the pinned commit; its value is the base URL."""
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    root = tmp_path / "web"
    folder = root / SOURCE.repository / "tar.gz"
    folder.mkdir(parents=True)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()

    def serve(data):
        (folder / SOURCE.commit).write_bytes(data)
        return f"http://127.0.0.1:{http.server_address[1]}"

    yield serve
    http.shutdown()
    http.server_close()
    thread.join()


def nothing_left(target):
    return not target.exists() and (not target.parent.exists() or not list(target.parent.iterdir()))


def test_fetches_only_the_wanted_folder(server, tmp_path):
    target = tmp_path / "data" / "abr" / "train"
    assert find(target, SOURCE, server(repository())) == target
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert content_hash(target) == SOURCE.sha256
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_is_there_needs_no_network(server, tmp_path):
    target = tmp_path / "data" / "train"
    find(target, SOURCE, server(repository()))
    assert find(target, SOURCE, "http://127.0.0.1:1") == target


def test_keeps_every_nth_file_and_no_pickles(server, tmp_path):
    kept = {"a": FILES["a"], "c": FILES["c"]}
    source = dataclasses.replace(SOURCE, every=2, files=2, sha256=hash_of(kept))
    pickled = {"traces-0123456789abcdef/data/train/ab.pkl": b"no", "traces-0123456789abcdef/data/train/.x": b"no"}
    target = find(tmp_path / "data" / "train", source, server(repository(extra=pickled)))
    assert sorted(path.name for path in target.iterdir()) == ["a", "c"]


NESTED = {"2g/adj_1.npy": b"1", "100g/adj_1.npy": b"2", "100g/time_1.npy": b"3"}
TREE = dataclasses.replace(SOURCE, files=3, sha256=hash_of(NESTED), keep=("*/adj_*.npy", "*/time_*.npy"))


def tree_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fetches_subfolders_and_only_what_is_kept(server, tmp_path):
    unwanted = {"2g/map_1.npy": b"no", "adj_1.npy": b"no", "2g/deep/adj_1.npy": b"no", ".git/adj_1.npy": b"no"}
    target = find(tmp_path / "data" / "train", TREE, server(repository({**NESTED, **unwanted})))
    assert tree_of(target) == NESTED
    assert find(target, TREE, "http://127.0.0.1:1") == target


def test_the_hash_of_a_tree_counts_kept_files_and_where_they_lie(server, tmp_path):
    target = find(tmp_path / "data" / "train", TREE, server(repository(NESTED)))
    (target / "100g" / "map_1.npy").write_bytes(b"more")
    assert content_hash(target, TREE.keep) == TREE.sha256
    (target / "100g" / "adj_1.npy").rename(target / "5")
    (target / "2g" / "adj_1.npy").rename(target / "100g" / "adj_1.npy")
    (target / "5").rename(target / "2g" / "adj_1.npy")
    with pytest.raises(UserError, match="3 files of content"):
        find(target, TREE, "http://127.0.0.1:1")


def test_subfolders_of_a_flat_folder_are_not_counted(server, tmp_path):
    target = find(tmp_path / "data" / "train", SOURCE, server(repository()))
    (target / "more").mkdir()
    (target / "more" / "a").write_bytes(b"1")
    assert content_hash(target) == SOURCE.sha256


@pytest.mark.parametrize(
    "name", ["../adj_evil.npy", "2g/../adj_evil.npy", "/adj_evil.npy", "..\\x/adj_evil.npy", "C:/adj_evil.npy"]
)
def test_no_member_leaves_a_tree(server, tmp_path, name):
    """Each of these would match a pattern, and lie outside of the folder, if its path were used as it is."""
    evil = {name: b"x", f"traces-0123456789abcdef/data/train/{name}": b"x"}
    target = find(tmp_path / "data" / "train", TREE, server(repository(NESTED, extra=evil)))
    assert tree_of(target) == NESTED
    assert not list(tmp_path.rglob("*evil*"))


def test_other_content_is_refused(server, tmp_path):
    target = tmp_path / "data" / "train"
    with pytest.raises(UserError, match=r"sha256 differs.*nothing was kept"):
        find(target, SOURCE, server(repository({**FILES, "b": b"0 3\n1 5\n"})))
    assert nothing_left(target)


def test_no_member_leaves_the_folder(server, tmp_path):
    """Names with `..`, absolute names and links in the archive write nothing outside, and are not taken for data."""
    top = "traces-0123456789abcdef"
    evil = {f"{top}/data/train/../../../../evil": b"x", "/evil": b"x", "../evil": b"x", f"{top}/data/train/sub/d": b"x"}
    target = tmp_path / "data" / "train"
    find(target, SOURCE, server(repository(extra=evil)))
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path.parent / "evil").exists()


def test_a_link_is_not_data(server, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("traces-0123456789abcdef/data/train/a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    target = tmp_path / "data" / "train"
    with pytest.raises(UserError, match="sha256 differs"):
        find(target, SOURCE, server(buffer.getvalue()))
    assert nothing_left(target)


def test_offline_says_both_ways(server, tmp_path):
    target = tmp_path / "data" / "train"
    with pytest.raises(UserError) as error:
        find(target, SOURCE, "http://127.0.0.1:1")
    for words in (str(target), "connect to the network", "owner/traces", "EDGENETLLM_DATA", "data=synthetic"):
        assert words in str(error.value)
    assert nothing_left(target)


def test_offline_names_the_data_of_its_own_task(server, tmp_path):
    source = dataclasses.replace(SOURCE, instead="data=other needs no download")
    with pytest.raises(UserError, match=r"says where data lies\. Otherwise, data=other needs no download\.$"):
        find(tmp_path / "data" / "train", source, "http://127.0.0.1:1")


def test_a_missing_commit_says_so_too(server, tmp_path):
    base = server(repository())
    with pytest.raises(UserError, match="cannot be fetched"):
        find(tmp_path / "data" / "train", dataclasses.replace(SOURCE, commit="f" * 16), base)


def test_a_changed_local_copy_is_named(server, tmp_path):
    target = find(tmp_path / "data" / "train", SOURCE, server(repository()))
    (target / "a").write_bytes(b"0 9\n1 9\n")
    with pytest.raises(UserError, match=f"{target} is not the pinned data set"):
        find(target, SOURCE, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>please log in</html>",
        repository()[:150],
        repository({**FILES, "b": b"0 3\n1 5\n"}),
        repository({"a": bytes(20 * 2**20)}),
        b"",
    ],
    ids=["page", "half", "other content", "large", "empty"],
)
def test_a_bad_reply_is_an_error_and_the_next_try_downloads_again(server, tmp_path, reply):
    """A captive portal answers 200 with a web page; the next attempt must not find that page in the cache."""
    target = tmp_path / "data" / "train"
    with pytest.raises(UserError, match="nothing was kept"):
        find(target, SOURCE, server(reply))
    assert nothing_left(target)
    assert find(target, SOURCE, server(repository())) == target


def test_a_reply_without_end_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST_DOWNLOAD", 1000)
    target = tmp_path / "data" / "train"
    with pytest.raises(UserError, match="cannot be fetched"):
        find(target, SOURCE, server(bytes(10**6)))
    assert nothing_left(target)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name != "fetch.lock"]
