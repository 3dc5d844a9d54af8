"""The data folder, and downloads from a server on this machine."""

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from covey.learning.datasets.images import MNIST
from covey.learning.datasets.source import Remote, download, obtain
from covey.parts.errors import DataError
from covey.runtime.task import data_folder

CONTENT = bytes(range(256)) * 9000
"""More than one chunk."""


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def idx(*sizes: int) -> bytes:
    body = bytes(1)
    for size in sizes:
        body *= size
    return gzip.compress(struct.pack(f">{1 + len(sizes)}I", 0x800 + len(sizes), *sizes) + body, mtime=0)


FILES = {
    "/whole": CONTENT,
    "/train-images-idx3-ubyte.gz": idx(3, 28, 28),
    "/train-labels-idx1-ubyte.gz": idx(3),
    "/t10k-images-idx3-ubyte.gz": idx(2, 28, 28),
    "/t10k-labels-idx1-ubyte.gz": idx(2),
}


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path not in {*FILES, "/cut", "/endless"}:
            self.send_error(404, "Not Found")
            return
        content = FILES.get(self.path, CONTENT)
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:1000] if self.path == "/cut" else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/whole", "/endless"])
@pytest.mark.parametrize("checksum", [sha256(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_a_download_arrives_whole(tmp_path: Path, server: str, path: str, checksum: str) -> None:
    target = tmp_path / "new" / "file"
    download(Remote(server + path, checksum, len(CONTENT)), target, quiet=True)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_progress_bar_is_shown_only_where_it_is_wanted(tmp_path: Path, server: str, capsys) -> None:
    remote = Remote(f"{server}/whole", sha256(CONTENT), len(CONTENT))
    download(remote, tmp_path / "one.bin", quiet=True)
    assert capsys.readouterr() == ("", "")
    download(remote, tmp_path / "two.bin", quiet=False)
    assert "two.bin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "checksum", "sentence"),
    [
        (
            "/whole",
            sha256(b"other"),
            f"The download of URL is damaged: expected {sha256(b'other')}, found {sha256(CONTENT)}.",
        ),
        ("/absent", sha256(b""), "Downloading URL failed: HTTP Error 404: Not Found."),
        ("/cut", sha256(CONTENT), "The download of URL broke off after 1,000 of 2,304,000 bytes."),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path: Path, server: str, path: str, checksum: str, sentence: str) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(DataError) as caught:
        download(Remote(server + path, checksum, len(CONTENT)), target, quiet=True)
    assert str(caught.value) == sentence.replace("URL", server + path)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("path", ["/whole", "/endless"])
def test_a_download_of_more_than_was_published_is_cut(tmp_path: Path, server: str, path: str) -> None:
    remote = Remote(server + path, sha256(CONTENT), 1_200_000)
    with pytest.raises(DataError) as caught:
        download(remote, tmp_path / "file", quiet=True)
    assert str(caught.value) == f"The download of {remote.url} is damaged: it is longer than 1,200,000 bytes."
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Downloading http://127\.0\.0\.1:1/x failed: .*refused"):
        download(Remote("http://127.0.0.1:1/x", sha256(b""), len(CONTENT)), tmp_path / "x", quiet=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path, server: str) -> None:
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(DataError, match=r"Downloading .* failed: .*occupied"):
        download(Remote(f"{server}/whole", sha256(CONTENT), len(CONTENT)), tmp_path / "occupied" / "x", quiet=True)


def test_what_is_there_is_not_downloaded_and_mirrors_are_tried_in_order(tmp_path: Path, server: str) -> None:
    path, other = tmp_path / "x.gz", tmp_path / "x"
    remotes = [
        Remote(f"{server}/absent", sha256(CONTENT), len(CONTENT)),
        Remote(f"{server}/whole", sha256(CONTENT), len(CONTENT)),
    ]
    other.write_bytes(b"mine")
    assert obtain(path, remotes, quiet=True, also=[other]) == other
    assert obtain(path, remotes, quiet=True) == path
    assert path.read_bytes() == CONTENT
    assert obtain(path, remotes, quiet=True) == path
    path.write_bytes(b"mine too")
    with pytest.raises(
        DataError, match=r"x\.gz is not the published one: expected sha256:.* Remove it to have that one"
    ):
        obtain(path, remotes, quiet=True)
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'mine too').hexdigest()}  x.gz\n")
    assert obtain(path, remotes, quiet=True) == path
    with pytest.raises(DataError) as caught:
        obtain(tmp_path / "y", remotes[:1] * 2, quiet=True)
    failure = f"Downloading {server}/absent failed: HTTP Error 404: Not Found."
    assert str(caught.value) == f"The file {tmp_path / 'y'} is missing: put it there. {failure} {failure}"


def test_several_may_download_the_same_file_at_once(tmp_path: Path, server: str) -> None:
    remote = Remote(f"{server}/whole", sha256(CONTENT), len(CONTENT))
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            download(remote, tmp_path / "file", quiet=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_data_set_downloads_what_it_lacks(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", (f"{server}/gone/", f"{server}/"))
    monkeypatch.setattr(MNIST, "checksums", {name[1:]: sha256(content) for name, content in FILES.items()})
    data = MNIST().load(tmp_path)
    assert (len(data.train), len(data.test)) == (3, 2)
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {name[1:] for name in FILES} - {"whole"}


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COVEY_DATA", raising=False)
    assert data_folder(None) == tmp_path / ".cache" / "covey"
    monkeypatch.setenv("COVEY_DATA", "~/sets")
    assert data_folder(None) == tmp_path / "sets"
    assert data_folder(Path("/given")) == Path("/given")
