"""Atomic writes through temporary files with recognizable names, and one-line messages for failed writes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from usdn_nas._util.errors import RunError, UsdnError, UserError

__all__ = ["PREFIX", "atomic_path", "os_failure", "remove_leftovers", "write_failure", "writing"]

PREFIX = ".usdn-nas-tmp-"
"""Beginning of the names of temporary files."""
_SUFFIX = r"\.[A-Za-z0-9]{1,12}"
_TEMPORARY = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}({_SUFFIX})?")

_REMEDIES = {
    errno.ENOSPC: "make room on this disk and give the same command again",
    errno.EDQUOT: "make room within your disk quota and give the same command again",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f) and give the same command again",
    errno.EIO: "check this disk, then give the same command again",
    errno.EROFS: "this disk can only be read; choose a folder on another one",
    errno.EACCES: "get the right to write there, or choose another folder",
    errno.EPERM: "get the right to write there, or choose another folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and give the same command again",
    errno.ENFILE: "close other programs and give the same command again",
}
_NAMES = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}
"""Failures that are caused by the name that the user gave, and not by the machine."""


def write_failure(error: OSError, path: object) -> UsdnError:
    """Returns the error that tells the user in one line that ``path`` could not be written.

    Returns:
        A `RunError` if the disk or a permission is the cause. A `UserError` if the name is, e.g. because it is a
        folder.
    """
    if error.errno in _NAMES:
        return UserError(f"cannot be written: {_finding(error)}", where=path)
    return RunError(_line(error, f"{path}: cannot be written"))


def os_failure(error: OSError) -> RunError:
    """Returns the error that tells the user in one line what the operating system refused to read or write."""
    return RunError(_line(error, error.filename or "a file or the output"))


def _line(error: OSError, start: object) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "mend this and give the same command again")
    return " ".join(f"{start}: {_finding(error)}; {remedy}".split())


def _finding(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turns an `OSError` inside the block into an error of this package, with one line that names ``path``.

    Libraries often report a full disk with an exception of their own, which they raise while they handle the `OSError`.
    The `OSError` is therefore looked for among the causes of every other exception too.

    Raises:
        RunError: The disk is full, or the file cannot be written for another reason that lies in the machine.
        UserError: The name cannot be the name of a file.
    """
    try:
        yield
    except UsdnError:
        raise
    except Exception as error:
        found = _os_error(error)
        if found is None:
            raise
        raise write_failure(found, path) from error


def _os_error(error: BaseException) -> OSError | None:
    """Returns the first `OSError` among an exception and its causes. None if there is none."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields the path of a new temporary file beside ``path``, for the caller to write.

    On success the file is flushed to the disk and renamed to ``path``. Otherwise it is removed, and ``path`` is
    unchanged. Only this program uses such names, so that files of killed processes can be removed safely. The temporary
    file has the suffix of ``path``, because some libraries choose the format by the suffix. Its name does not contain
    the name of ``path``, which may already have the largest possible length.

    Raises:
        RunError: The disk is full, or the file cannot be written for another reason that lies in the machine.
        UserError: ``path`` cannot be a file, e.g. because it is a folder.
    """
    path = Path(path)
    suffix = path.suffix if re.fullmatch(_SUFFIX, path.suffix) else ""
    temporary = path.parent / f"{PREFIX}{secrets.token_hex(8)}{suffix}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):  # an earlier error is more important
                temporary.unlink(missing_ok=True)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Removes the temporary files that killed processes left in ``folders``. Nobody may write to the folders meanwhile.

    Only files with a name that `atomic_path` creates are removed. Subfolders are left alone, and so are ``folders``
    that are symbolic links.
    """
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        with writing(folder), os.scandir(folder) as entries:
            ours = [e.path for e in entries if _TEMPORARY.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
            for name in ours:
                os.unlink(name)
