"""Downloads that end as a whole file or an error: retry with backoff, resume, timeout, size limit, size and hash checks.

A file is fetched from a mirror, which is a directory or an http(s) URL, into `<name>.part` beside its place and renamed when
it is complete. Processes that want the same file wait for each other at a lock on the `.part` file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urljoin, urlsplit

from turntable import files
from turntable.errors import UserError
from turntable.files import atomic_path, disk_errors

CHUNK_BYTES = 1 << 18
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""HTTP answers that another try may change."""
GONE_STATUS = {404, 410, 451}
"""HTTP answers after which there is nothing to be had; 451 is for what a court or an owner had taken away."""
FIRST_BYTES = {".glb": b"glTF", ".gz": b"\x1f\x8b"}
"""Suffix -> what such a file begins with. A proxy's log-in page is answered with HTTP 200 too, and must not settle in a cache."""
SHA256_HEADERS = ("X-Linked-ETag", "ETag")
"""Where the Hugging Face hub states a large file's SHA-256, the first on its redirect. A value of another form is no hash."""


def weights_folder() -> Path:
    """Where the weights of published networks are kept: `$TURNTABLE_CACHE/weights`, or `~/.cache/turntable/weights`."""
    return Path(os.environ.get("TURNTABLE_CACHE") or "~/.cache/turntable").expanduser() / "weights"


class DownloadError(UserError):
    """A file that did not arrive."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
        """The mirror answered that it has no such file: trying again is of no use."""


class TooLarge(DownloadError):
    """A file larger than was allowed."""


class HashMismatch(DownloadError):
    """A whole file arrived that is not the one that was asked for; it is not kept."""

    def __init__(self, message: str, start: bytes) -> None:
        super().__init__(message)
        self.start = start
        """Its first kilobyte."""


@dataclass(frozen=True)
class Policy:
    """How patient and how trusting a download is."""

    tries: int = 5
    """Tries in a row that bring no further byte before it is given up."""
    backoff_s: float = 1.0
    """Seconds before the second try, doubled for each further one."""
    longest_wait_s: float = 900.0
    """Seconds: no wait is longer, whatever the server asks for by Retry-After."""
    timeout_s: float = 30.0
    """Seconds without an answer or a further byte until a try counts as failed."""
    max_bytes: int = 4 << 30
    """A larger file is refused."""
    redirects: int = 5
    """Redirects that are followed in a row, all of them to http(s), none from https to http."""


def limited(policy: Policy, max_bytes: int | None) -> Policy:
    """The policy with another limit of size; None leaves it as it is."""
    return policy if max_bytes is None else replace(policy, max_bytes=max_bytes)


class _Passing(Exception):
    """A try failed in a way that another may not."""

    def __init__(self, message: str, wait_s: float = 0.0, version: str = "") -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Seconds that the server asked to be left alone."""
        self.version = version
        """ETag of the partial download, "" when unknown."""


def obtain(mirror: str, relative: str, target: Path, policy: Policy = Policy(), sha256: str | None = None) -> Path:
    """Brings `mirror/relative` to `target`, which is whole when it exists. Raises `DownloadError`.

    `sha256` is the content's, in hexadecimal digits, where it is known; other content is a `HashMismatch`.
    """
    if "://" not in mirror:
        return _copy(Path(mirror).expanduser() / relative, target, policy, sha256)
    if not mirror.startswith(("http://", "https://")):
        raise DownloadError(f"mirror {mirror}: neither a directory nor an http(s) URL")
    url = f"{mirror.rstrip('/')}/{quote(relative, safe='/:')}"
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(target), part.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if target.exists():  # Whoever held the lock before us has finished it; `handle` is that very file.
            return _of_hash(target, sha256)
        resumed = handle.tell() > 0
        _fetch_whole(url, handle, policy)
        if sha256 is None:
            _check_kind(url, handle, FIRST_BYTES.get(target.suffix, b""))
        elif resumed and _sha256(handle) != sha256:  # The start that was left may have been of another file.
            _drop(handle)
            _fetch_whole(url, handle, policy)
        if sha256 is not None:
            _check_sha256(url, handle, sha256)
        handle.flush()
        os.fsync(handle.fileno())
        part.replace(target)
    return target


def _of_hash(path: Path, expected: str | None) -> Path:
    if expected is not None and (found := files.sha256(path)) != expected:
        with path.open("rb") as content:
            raise HashMismatch(f"{path}: its SHA-256 is {found}, {expected} was expected", content.read(1024))
    return path


def _copy(source: Path, target: Path, policy: Policy, sha256: str | None) -> Path:
    if not source.is_file():
        raise DownloadError(f"{source}: no such file in the mirror", missing=True)
    if source.stat().st_size > policy.max_bytes:
        raise TooLarge(f"{source}: {source.stat().st_size} bytes, more than {policy.max_bytes}; refused")
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        if sha256 is not None:
            with temporary.open("ab") as handle:
                _check_sha256(str(source), handle, sha256)
    return target


def _fetch_whole(url: str, handle: IO[bytes], policy: Policy) -> None:
    """Tries until `handle` (opened for appending) holds all of `url`; a try that brought new bytes is not held against it."""
    import requests

    furthest, failures, version = handle.tell(), 0, ""
    with requests.Session() as session:
        session.max_redirects = policy.redirects
        session.hooks["response"].append(_check_redirect)
        while True:
            try:
                return _continue(session, url, handle, policy, version)
            except _Passing as failure:
                handle.flush()
                version = failure.version or version
                failures = 1 if handle.tell() > furthest else failures + 1
                furthest = max(furthest, handle.tell())
                if failures >= policy.tries:
                    raise DownloadError(f"{url}: {failure}; given up after {failures} tries in a row") from failure
                wait_s = max(policy.backoff_s * 2 ** (failures - 1), failure.wait_s)
                time.sleep(min(wait_s, policy.longest_wait_s))


def _continue(session: Any, url: str, handle: IO[bytes], policy: Policy, version: str) -> None:
    """One try: asks for what `handle` lacks and appends it. `version` is the ETag of what it holds, "" when unknown."""
    import requests
    import urllib3

    have = handle.tell()
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.startswith('"'):  # RFC 9110, 13.1.5: a weak ETag (W/"…") cannot vouch for bytes.
            headers["If-Range"] = version
    try:
        with session.get(url, headers=headers, stream=True, timeout=policy.timeout_s) as response:
            total = _check_answer(url, response, handle, policy)
            try:
                # read1 hands over what has come, so that a stalled connection loses nothing of it.
                while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
                    handle.write(chunk)
                    if handle.tell() > policy.max_bytes:
                        raise TooLarge(f"{url}: more than {policy.max_bytes} bytes; refused")
            except urllib3.exceptions.HTTPError as error:
                etag = response.headers.get("ETag", "")
                raise _Passing(f"it broke off after {handle.tell()} bytes ({error})", version=etag) from error
            _check_content(response, handle, total)
    except requests.RequestException as error:
        cause = error.args[0] if error.args else error
        raise _Passing(f"no answer: {getattr(cause, 'reason', cause)}") from error


def _check_answer(url: str, response: Any, handle: IO[bytes], policy: Policy) -> int | None:
    """Judges the status line, drops what is held where the answer does not continue it; the whole file's size if stated."""
    status, have = response.status_code, handle.tell()
    if status in PASSING_STATUS:
        raise _Passing(f"HTTP {status} {response.reason}", seconds_asked(response.headers.get("Retry-After", "")))
    if status == 416:  # What we hold is as long as the file, or longer: it cannot be told from another file's start.
        _drop(handle)
        raise _Passing("the partial download is no start of this file; it begins anew")
    if status not in (200, 206):
        raise DownloadError(f"{url}: HTTP {status} {response.reason}", missing=status in GONE_STATUS)
    continued = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if status == 206 and (not continued or int(continued[1]) != have):
        raise DownloadError(f"{url}: asked for bytes from {have}, got {response.headers.get('Content-Range')!r}")
    if status == 200 and have:
        _drop(handle)
    length = response.headers.get("Content-Length", "")
    total = int(continued[2]) if continued else int(length) if length.isdigit() else None
    if total is not None and total > policy.max_bytes:
        raise TooLarge(f"{url}: {total} bytes, more than {policy.max_bytes}; refused")
    return total


def _check_content(response: Any, handle: IO[bytes], total: int | None) -> None:
    """Size against the server's word, and SHA-256 where the server states it. What fails is dropped and tried again."""
    handle.flush()
    size = handle.tell()
    if total is not None and size != total:
        _drop(handle)
        raise _Passing(f"{size} bytes arrived, {total} were announced")
    stated = _stated_sha256(response)
    if not stated:
        return
    found = _sha256(handle)
    if found != stated:
        _drop(handle)
        raise _Passing(f"its SHA-256 is {found}, the server states {stated}")


def _check_kind(url: str, handle: IO[bytes], expected: bytes) -> None:
    with Path(handle.name).open("rb") as content:
        found = content.read(40)
    if not found.startswith(expected):
        _drop(handle)
        raise DownloadError(f"{url}: what came is of another kind, it begins with {found!r}; open it in a browser")


def _check_sha256(where: str, handle: IO[bytes], expected: str) -> None:
    found = _sha256(handle)
    if found != expected:
        with Path(handle.name).open("rb") as content:
            start = content.read(1024)
        _drop(handle)
        raise HashMismatch(f"{where}: its SHA-256 is {found}, {expected} was expected; not kept", start)


def _sha256(handle: IO[bytes]) -> str:
    handle.flush()
    return files.sha256(Path(handle.name))


def _check_redirect(response: Any, **_: Any) -> None:
    """A hook that sees each answer before it is followed."""
    if response.is_redirect:
        target = urljoin(response.url, response.headers["Location"])
        if not may_follow(response.url, target):
            raise DownloadError(f"{response.url}: redirected to {target[:200]!r}; refused")


def may_follow(url: str, target: str) -> bool:
    """Whether a redirect from one URL to another is followed: to http(s) only, and never out of https."""
    schemes = urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()
    return schemes[1] == "https" or schemes == ("http", "http")


def seconds_asked(retry_after: str) -> float:
    """The wait that a Retry-After header asks for: seconds or an HTTP date (RFC 9110, 10.2.3); 0 for anything else."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _drop(handle: IO[bytes]) -> None:
    handle.seek(0)
    handle.truncate()


def _stated_sha256(response: Any) -> str | None:
    for answer in [*response.history, response]:
        for name in SHA256_HEADERS:
            value = answer.headers.get(name, "").strip('"')
            if re.fullmatch(r"[0-9a-f]{64}", value):
                return value
    return None
