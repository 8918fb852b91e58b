"""Code that a file names: who must consent before it runs, how it is found, what of it may be called.

A search space names a network and a study names a data set. Either may be a function, ``package.module:function``, and
to build it means to run that code. A file may come from somebody else, so the readers of files ask for consent. After
that a specification is trusted: other processes of the same command get it without asking again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from usdn_nas._util.errors import UserError, nearest

__all__ = [
    "INSTANCE",
    "TORCHVISION",
    "TRUST_VARIABLE",
    "ConsentError",
    "check_data",
    "check_network",
    "find_function",
    "users_code",
    "what_was_raised",
]

TORCHVISION = "torchvision:"
INSTANCE = "model:"
"""Goes before the class name of a model that was passed in Python. No name builds such a model, so it runs no code."""
TRUST_VARIABLE = "USDN_NAS_TRUST_CODE"
"""Environment variable that gives consent to every command."""
_SHIPPED = frozenset({"usdn_nas.networks.compact:compact"})
"""Functions of this package that the shipped search spaces name."""


class ConsentError(UserError):
    """A file names code, and nobody consented to run it.

    Args:
        name: The function as the file names it.
        where: The file and the key.
    """

    def __init__(self, name: str, where: object) -> None:
        super().__init__(
            f"building this would import and run '{name}', code that this file names",
            where=where,
            remedy="if you trust that code, consent with --trust-code, or trust_code=True in Python",
        )


def check_network(name: str, *, where: object, trust_code: bool) -> None:
    """Refuses a network's name that a file gives, if it names code and nobody consented.

    Names without a colon are built in, and torchvision's networks are free too.

    Args:
        where: The file and the key.

    Raises:
        ConsentError: The name stands for code that is neither ours nor torchvision's.
    """
    if ":" in name and not name.startswith((TORCHVISION, INSTANCE)) and name not in _SHIPPED and not trust_code:
        raise ConsentError(name, where)


def check_data(name: str, *, where: object, trust_code: bool) -> None:
    """Refuses a data set's name that a file gives, if it names code and nobody consented.

    Args:
        where: The file and the key.

    Raises:
        ConsentError: The name has a colon, so it stands for code.
    """
    if ":" in name and not trust_code:
        raise ConsentError(name, where)


@contextlib.contextmanager
def users_code(name: str, where: object) -> Iterator[None]:
    """Surrounds code of the user's: the working directory can be imported from, and nothing ends the program.

    A console script, unlike ``python -m``, does not look for modules in the working directory. It is searched last.

    Args:
        name: The function that the code belongs to.
        where: The key that names it.

    Raises:
        UserError: The code raised something that is no `Exception`, such as SystemExit. Ctrl-C passes.
    """
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(
            f"the code of '{name}' tried to end the program ({what_was_raised(error)})", where=where
        ) from None
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def what_was_raised(error: BaseException) -> str:
    """The type and the message of an exception of the user's code, whose ``__str__`` may itself fail."""
    try:
        text = str(error).strip()
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def find_function(name: str, *, where: object, classes: tuple[type, ...] = ()) -> Callable[..., Any]:
    """Imports ``package.module:function``, which may be called.

    Functions and callables that are written in Python may be called, and subclasses of ``classes``. What is compiled
    (``os:abort``) and other classes may not, and neither may anything of Python's standard library, which has
    neither networks nor data.

    Args:
        where: The key that names it, for messages.
        classes: Classes whose subclasses may be called too.

    Raises:
        UserError: There is no such module or function, importing it fails, or it may not be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"expected 'package.module:function', got '{name}'", where=where)
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(
            f"'{module_name}' is a module of Python's standard library, from which nothing is called",
            where=where,
            remedy="name a function of your own",
        )
    with users_code(name, where):
        module = _imported(module_name, where)
        found = _attribute(module, module_name, attribute, where)
    if not callable(found):
        raise UserError(f"'{name}' is no function, its type is {type(found).__name__}", where=where)
    if not _may_be_called(found, classes):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        more = "".join(f", or a subclass of {one.__name__}" for one in classes)
        raise UserError(f"'{name}' is {kind}, expected a function written in Python{more}", where=where)
    return found


def _imported(module_name: str, where: object) -> types.ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # the user's code runs
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "?")
        why = "is not found" if missing else f"cannot be imported: {what_was_raised(error)}"
        remedy = "install it, set PYTHONPATH, or start from the folder that it is in" if missing else None
        raise UserError(f"module '{module_name}' {why}", where=where, remedy=remedy) from None


def _attribute(module: types.ModuleType, module_name: str, attribute: str, where: object) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            raise UserError(
                f"module '{module_name}' has no '{attribute}'",
                where=where,
                remedy=nearest(attribute, functions) if functions else None,
            ) from None
        except Exception as error:  # a module may have a __getattr__ of its own
            raise UserError(
                f"'{attribute}' of module '{module_name}' cannot be read: {what_was_raised(error)}", where=where
            ) from None
    return found


def _may_be_called(found: object, classes: tuple[type, ...]) -> bool:
    """True if ``found`` is written in Python, as far as one can see without calling it."""
    if isinstance(found, functools.partial):
        return _may_be_called(found.func, classes)
    if isinstance(found, functools._lru_cache_wrapper):
        return _may_be_called(found.__wrapped__, classes)
    if isinstance(found, types.MethodType):
        return _may_be_called(found.__func__, ())
    if isinstance(found, type):
        return issubclass(found, classes)
    if isinstance(found, types.FunctionType):
        return True
    return isinstance(getattr(type(found), "__call__", None), types.FunctionType)  # noqa: B004
