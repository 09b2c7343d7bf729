"""Downloads of published files: complete or absent."""

import http.server
import pathlib
import threading

import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import records
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path != "/tetrominoes/tetrominoes_train.tfrecords":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tetrominoes, monkeypatch):
    """Serve Tetrominoes on the loopback, in place of the public bucket."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.content = pathlib.Path(tetrominoes[0]).read_bytes()
    server.cut_after = None  # bytes of an answer after which the connection breaks
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(records, "URL", url)
    yield server
    server.shutdown()
    server.server_close()


def _prepare(data_dir, **options):
    return prepare(
        "tetrominoes", Options(splits={"train": 9}, data_dir=data_dir, **options)
    )


def test_a_dataset_without_a_source_is_downloaded_once(server, tetrominoes, tmp_path):
    store = Store.open(_prepare(tmp_path))
    assert store.num_examples("train") == 9
    kept = tmp_path / "downloads" / "tetrominoes_train.tfrecords"
    assert kept.read_bytes() == server.content
    assert list(kept.parent.iterdir()) == [kept]
    # The same file given by --source is the same dataset: nothing is left to do.
    again = Store.open(_prepare(tmp_path, source=tetrominoes[0]))
    assert again.fingerprint == store.fingerprint
    _prepare(tmp_path)
    assert len(server.asked) == 1


def test_an_interrupted_download_leaves_no_file(server, tmp_path):
    server.cut_after = len(server.content) // 2
    with pytest.raises(UserError, match=r"tfrecords: not downloaded .*--source"):
        _prepare(tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []
    server.cut_after = None
    assert Store.open(_prepare(tmp_path)).num_examples("train") == 9


@pytest.mark.parametrize("reason", ["404", "refused", "Not a directory"])
def test_failed_download_suggests_source_in_one_line(
    server, tmp_path, monkeypatch, reason
):
    if reason == "404":
        monkeypatch.setattr(records, "URL", f"{records.URL}/absent")
    elif reason == "refused":
        server.shutdown()
        server.server_close()
    else:
        (tmp_path / "downloads").write_text("")
    with pytest.raises(UserError, match=f"{reason}.*--source") as error:
        _prepare(tmp_path)
    assert "\n" not in str(error.value)
