import http.server
import pathlib
import threading

import numpy as np
import pytest

from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import download, records
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store, StoreError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class _Server(http.server.ThreadingHTTPServer):
    """Serves `content` at /set/file.bin, on the loopback only."""

    content = CONTENT
    ranges = True
    cut_after = None  # bytes of an answer after which the connection breaks

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content, first = self.server.content, 0
        if not self.path.endswith(".bin") and not self.path.endswith(".tfrecords"):
            self.send_error(404)
            return
        if wanted and self.server.ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.cut_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = _Server()
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_is_whole_and_made_once(server, tmp_path):
    url = f"{server.url}/set/file.bin"
    path = download.fetch(url, tmp_path / "downloads")
    assert path == tmp_path / "downloads" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert download.fetch(url, tmp_path / "downloads") == path
    assert server.asked == [None]
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_a_broken_download_goes_on_where_it_ended(server, tmp_path):
    url = f"{server.url}/set/file.bin"
    server.cut_after = 1_000_000
    for part in (1, 2):
        with pytest.raises(StoreError, match=r"file\.bin\.part: has .* start again"):
            download.fetch(url, tmp_path)
        assert (tmp_path / "file.bin.part").stat().st_size == part * 1_000_000
        assert not (tmp_path / "file.bin").exists()
    server.cut_after = None
    assert download.fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]
    assert not (tmp_path / "file.bin.part").exists()


def test_servers_without_ranges_send_all_again(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"older")
    server.ranges = False
    assert download.fetch(f"{server.url}/file.bin", tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long_is_told(server, tmp_path):
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT)
    assert download.fetch(f"{server.url}/file.bin", tmp_path).read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    part.write_bytes(CONTENT + b"of another file")
    assert download.fetch(f"{server.url}/file.bin", tmp_path).read_bytes() == CONTENT


def test_what_cannot_be_reached_is_one_line_that_advises_source(server, tmp_path):
    with pytest.raises(StoreError, match=r"refused by the server \(404.*--source"):
        download.fetch(f"{server.url}/absent", tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(StoreError, match=r"not reachable .*refused.*--source") as error:
        download.fetch(f"{server.url}/file.bin", tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_datasets_without_a_source_are_downloaded(
    server, tetrominoes, tmp_path, monkeypatch
):
    path, images = tetrominoes
    server.content = pathlib.Path(path).read_bytes()
    monkeypatch.setattr(records, "URL", f"{server.url}/multi-object-datasets")
    options = Options(splits={"train": len(images)}, data_dir=tmp_path)
    store = Store.open(prepare("tetrominoes", options))
    assert store.num_examples("train") == len(images)
    kept = tmp_path / "downloads" / "tetrominoes_train.tfrecords"
    assert kept.read_bytes() == server.content
    # The same file given by --source is the same dataset: nothing is left to do.
    again = Options(source=path, splits=options.splits, data_dir=tmp_path)
    assert Store.open(prepare("tetrominoes", again)).fingerprint == store.fingerprint
