"""The files of CIFAR-10 in its binary version: fetched once, and read without executing anything in them.

A file is a row of records, each one byte of label (0 to 9) and 3,072 bytes of pixels: the red, the green and the blue
plane of 32x32, row by row. Five files of 10,000 records are for training, a sixth for the test.

Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images;
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import filelock
import numpy as np
import pooch
import requests
from numpy.typing import NDArray

from tuner.errors import StudyError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)

RECORDS = 10_000
CLASSES = 10
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32

#: Longest silence of the server.
TIMEOUT_S = 60


def fetch(root: Path, *, url: str = URL, sha256: str = SHA256) -> Path:
    """The folder with the files, in `root`; fetched and unpacked (170 MB, then 184 MB) if it is not there.

    Of processes that call this at once, one fetches and the others wait for it. The folder gets its name when all of
    it is there, so that nobody reads half a file. An archive in `root` is used if its sum is right.

    Raises:
        StudyError: the archive cannot be fetched, is not the one meant, or cannot be written.
    """
    folder = root / FOLDER
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{FOLDER}.lock"):
            if not folder.is_dir():
                _unpack(_archive(root, url, sha256), folder)
    except requests.RequestException as error:  # an OSError, too
        raise StudyError(
            f"{url}: CIFAR-10 is fetched from here when {folder} does not exist, and it cannot be: {error}. Bring"
            f" {ARCHIVE} to {root.absolute()} by other means, or name a folder that has {FOLDER} with data.root."
        ) from None
    except OSError as error:
        raise StudyError(
            f"{root.absolute()}: CIFAR-10 is to be fetched to this folder, and it cannot be written: {error}."
            " Name a folder that can be with data.root (354 MB)."
        ) from None
    return folder


def read(file: Path, records: int = RECORDS) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pixels, uint8 of shape (n, 3, 32, 32), and the labels, uint8 of shape (n,), of one file.

    Args:
        file: in the format above.
        records: how many it must hold.

    Raises:
        StudyError: the file is missing, cannot be read, has another size, or a label that is none.
    """
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except FileNotFoundError:
        raise _unusable(file, "is one of the files of CIFAR-10", "does not exist") from None
    except OSError as error:
        raise _unusable(file, "is one of the files of CIFAR-10", f"cannot be read ({error.strerror})") from None
    expected = records * RECORD_BYTES
    if content.size != expected:
        rule = f"has {records:,} records of {RECORD_BYTES:,} bytes, {expected:,} in all"
        raise _unusable(file, rule, f"has {content.size:,} bytes")
    table = content.reshape(records, RECORD_BYTES)
    labels = table[:, 0]
    if (wrong := np.flatnonzero(labels >= CLASSES)).size:
        found = f"has the label {labels[wrong[0]]} in record {wrong[0]:,}"
        raise _unusable(file, f"begins each record with a label from 0 to {CLASSES - 1}", found)
    return table[:, 1:].reshape(records, *SHAPE), labels.copy()


def _unusable(file: Path, rule: str, found: str) -> StudyError:
    return StudyError(
        f"{file.absolute()}: {rule}; this one {found}. Remove the folder {file.parent.absolute()}, so that it is"
        " fetched anew, or name another with data.root."
    )


def _archive(root: Path, url: str, sha256: str) -> Path:
    fetcher = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT_S)
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=ARCHIVE, path=root, downloader=fetcher))
    except ValueError as error:  # pooch's word for a wrong sum; it has removed the file
        raise StudyError(
            f"{url}: the archive of CIFAR-10 has the SHA-256 sum {sha256}, and what came from here has another."
            f" Try again; if it stays so, bring the right {ARCHIVE} to {root.absolute()} by other means. ({error})"
        ) from None


def _unpack(archive: Path, folder: Path) -> None:
    """Take the known files out of the archive, and nothing else, beside the folder's place."""
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            for name in (*TRAINING, *TEST):
                source = tar.extractfile(f"{FOLDER}/{name}")
                assert source is not None  # the archive's sum is right
                with source, (beside / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        beside.chmod(0o755)  # as other folders, not for its maker alone
        os.replace(beside, folder)  # noqa: PTH105
    finally:
        shutil.rmtree(beside, ignore_errors=True)
