"""Disks that are full, and everything else that a file system may refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vae_export.errors import StorageError
from vae_export.io.atomic import check_room, storage_errors


@pytest.mark.parametrize("code", ["EIO", "EFBIG", "ELOOP", "ENOSPC", "EDQUOT", "EACCES", "EROFS", "ENAMETOOLONG"])
def test_os_errors_become_storage_errors(tmp_path: Path, code: str) -> None:
    import errno

    number = getattr(errno, code)
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


class TestRoom:
    def test_both_sizes_are_named(self, small_disk: Path) -> None:
        check_room(small_disk / "file", 1 << 19)
        with pytest.raises(StorageError, match=r"disk full: \S+file; expected 2,097,152 bytes, got [\d,]+ bytes free"):
            check_room(small_disk / "file", 2 << 20)
