"""Checks for code that a file names: it asks for consent before the code runs, finds it, and limits what may be called.

A search space names a network, and a study names a data set. Either may be a function, ``package.module:function``,
whose code runs when the network or data set is built. A file may come from somebody else, so the functions that read
files ask for consent. After that the specification is trusted: other processes of the same command get it without
asking again.
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
"""Prefix of the name of a model that was passed in Python. A model cannot be built from such a name, so it runs no
code."""
TRUST_VARIABLE = "USDN_NAS_TRUST_CODE"
"""Environment variable that gives consent for every command."""
_SHIPPED = frozenset({"usdn_nas.networks.compact:compact"})
"""Functions of this package that the shipped search spaces name."""


class ConsentError(UserError):
    """Raised if a file names code, and nobody consented to run it.

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

    Names without a colon are built in. They need no consent, and neither do torchvision's networks.

    Args:
        name: Name of the network.
        where: The file and the key.
        trust_code: Consent to any code.

    Raises:
        ConsentError: The name stands for code that belongs neither to this package nor to torchvision.
    """
    if ":" in name and not name.startswith((TORCHVISION, INSTANCE)) and name not in _SHIPPED and not trust_code:
        raise ConsentError(name, where)


def check_data(name: str, *, where: object, trust_code: bool) -> None:
    """Refuses a data set's name that a file gives, if it names code and nobody consented.

    Args:
        name: Name of the data set.
        where: The file and the key.
        trust_code: Consent to any code.

    Raises:
        ConsentError: The name has a colon, so it stands for code.
    """
    if ":" in name and not trust_code:
        raise ConsentError(name, where)


@contextlib.contextmanager
def users_code(name: str, where: object) -> Iterator[None]:
    """Context for running the user's code. It can import from the working directory, and cannot end the program.

    A console script, unlike ``python -m``, does not look for modules in the working directory. Here the working
    directory is searched after all other places.

    Args:
        name: The function that the code belongs to.
        where: The key that names it.

    Raises:
        UserError: The code raised something that is not an `Exception`, such as SystemExit. Ctrl-C is passed on.
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
    """Returns type and message of an exception of the user's code. Its ``__str__`` may itself fail."""
    try:
        text = str(error).strip()
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def find_function(name: str, *, where: object, classes: tuple[type, ...] = ()) -> Callable[..., Any]:
    """Imports ``package.module:function`` and returns the function, if it may be called.

    Functions and other callables that are written in Python may be called, and so may subclasses of ``classes``.
    Compiled functions (``os:abort``) and other classes may not be called. Nothing from Python's standard library may be
    called, because it has neither networks nor data.

    Args:
        name: The function, as ``package.module:function``.
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
    except Exception as error:  # the import runs the user's code, which may raise anything
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
        except Exception as error:  # a module may define __getattr__, which may raise anything
            raise UserError(
                f"'{attribute}' of module '{module_name}' cannot be read: {what_was_raised(error)}", where=where
            ) from None
    return found


def _may_be_called(found: object, classes: tuple[type, ...]) -> bool:
    """True if ``found`` may be called: it is written in Python, as far as one can tell without calling it, or it is a
    subclass of ``classes``.
    """
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
