"""The user's own modules, which register operations when they are imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import OPERATIONS


def import_modules(names: Iterable[str]) -> None:
    """Import the user's modules, each once in a process.

    Args:
        names: Names of modules, which may lie in the working directory, or paths of files;
            ``DIRECTORY:NAME`` for a module that lies elsewhere.

    Raises:
        PfstudyError: There is no such module, or importing it fails.
    """
    for name in names:
        _import(str(Path(name).absolute()) if name.endswith(".py") else name)


def locate(name: str) -> str:
    """Say where a module that was imported lies, so that it is found from any directory.

    Returns:
        The path of a file; ``DIRECTORY:NAME`` for a module in the working directory; the name of
        any other.
    """
    if name.endswith(".py"):
        return str(Path(name).absolute())
    top = sys.modules.get(name.partition(".")[0])
    place = getattr(top, "__path__", None) or [getattr(top, "__file__", None) or ""]
    is_here = Path(next(iter(place))).resolve().parent == Path.cwd().resolve()
    return f"{Path.cwd()}:{name}" if is_here else name


@cache
def _import(name: str) -> None:
    directory, _, module = name.rpartition(":")
    registered = dict(OPERATIONS)
    try:
        if name.endswith(".py"):
            _import_file(Path(name))
            module = Path(name).stem
        else:
            here = directory or str(Path.cwd())
            if here not in sys.path and (directory or "" not in sys.path):
                sys.path.insert(0, here)  # a console script does not look in the directory
            importlib.import_module(module)
    except BaseException as error:
        OPERATIONS.clear()
        OPERATIONS.update(registered)
        if isinstance(error, PfstudyError) or not isinstance(error, Exception):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise PfstudyError(
                f"imports: there is no module {module!r} in {directory or Path.cwd()} or on "
                "Python's path."
            ) from None
        raise _failed(module if directory else name, error) from None


def _import_file(path: Path) -> None:
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PfstudyError(f"imports: there is no file {path}.")
    if path.stem in sys.modules:
        other = getattr(sys.modules[path.stem], "__file__", None)
        if other is None or not path.samefile(other):
            raise PfstudyError(
                f"imports: {path} has the name of a module that is imported already "
                f"({other or 'a built-in one'}); rename the file."
            )
        return
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports beside itself
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def _failed(name: str, error: Exception) -> PfstudyError:
    trace, place = error.__traceback__, ""
    stem = Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]
    while trace is not None:  # the last frame of the user's own file
        if Path(trace.tb_frame.f_code.co_filename).stem == stem:
            place = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return PfstudyError(
        f"imports: {name} cannot be imported: {type(error).__name__}: {error}{place}."
    )
