"""Downloads of published files: with progress, resumed, checked for their length."""

import http.client
import os
import pathlib
import urllib.error
import urllib.request

from .. import progress
from ..store import StoreError

_CHUNK = 1 << 20
_TIMEOUT_S = 60.0


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads a file, or what is missing of it, unless it is there.

    While it is incomplete it is named `<file>.part`; a later call goes on with that.

    Args:
      url: of the file.
      folder: where it goes; made if absent.

    Returns:
      the whole file.

    Raises:
      StoreError: not reachable, interrupted, of another length than announced, or no
        room.
    """
    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        total = _download(url, part, have)
    except urllib.error.HTTPError as error:
        raise StoreError(
            f"{url}: refused by the server ({error.code} {error.reason}); download it "
            "by other means and give it by --source"
        ) from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(
            f"{url}: not reachable ({reason}); start again where there is a network, "
            "or download it elsewhere and give it by --source"
        ) from None
    except OSError as error:
        raise StoreError(f"{part}: not written ({error.strerror or error})") from None
    size = part.stat().st_size
    if size != total:
        raise StoreError(
            f"{part}: has {size} bytes of {total}, the download was interrupted; start "
            "again to go on with it"
        )
    part.replace(path)
    return path


def _download(url: str, part: pathlib.Path, have: int) -> int:
    """Appends to `part` what is missing; returns the length of the whole file."""
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        # The range begins at the end: the file was whole but not yet renamed.
        if (
            error.code == 416
            and error.headers.get("Content-Range") == f"bytes */{have}"
        ):
            return have
        if error.code != 416:
            raise
        part.unlink()
        return _download(url, part, 0)
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        if length is None:
            raise http.client.HTTPException("the server does not tell the length")
        total = have + int(length)
        with (
            part.open("ab" if have else "wb") as file,
            progress.Progress(f"downloading {part.stem}", int(length), "bytes") as bar,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.advance(len(chunk), f"{file.tell() / 1e9:.2f} GB")
            file.flush()
            os.fsync(file.fileno())
    return total
