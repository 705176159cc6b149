"""The user's own modules, which register operations when they are imported."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import Operation


def import_modules(names: Iterable[str]) -> None:
    """Import the user's modules, each once in a process.

    Args:
        names: Names of modules, which may lie in the working directory, or paths of files.

    Raises:
        PfstudyError: There is no such module, or importing it fails.
    """
    for name in names:
        _import(name)


def locate(name: str) -> str:
    """Say where a module that was imported lies, so that it is found from any directory.

    Returns:
        The path of a file that is a module by itself; the name of one in a package.
    """
    if name.endswith(".py"):
        return str(Path(name).absolute())
    file = getattr(sys.modules.get(name), "__file__", None)
    is_alone = "." not in name and file is not None and Path(file).name == f"{name}.py"
    return str(Path(str(file)).absolute()) if is_alone else name


def source_digest(operation: Operation) -> str | None:
    """Digest of the file that a user's operation stands in; ``None`` for one of ours."""
    target = operation.target
    module = target.partition(":")[0] if isinstance(target, str) else target.__module__
    if module.partition(".")[0] == "pfstudy":
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        spec = find_spec(module)
        file = spec.origin if spec else None
    if file is None:
        raise PfstudyError(f"operation {operation.name!r}: the source of {module} is not known.")
    return _digest(file, Path(file).stat().st_mtime_ns)


@cache
def _digest(file: str, changed_ns: int) -> str:
    del changed_ns
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@cache
def _import(name: str) -> None:
    try:
        if name.endswith(".py"):
            _import_file(Path(name))
            return
        if str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a console script does not look there
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _failed(name, error) from None
        raise PfstudyError(
            f"imports: there is no module {name!r} in {Path.cwd()} or on Python's path."
        ) from None
    except PfstudyError:
        raise
    except Exception as error:
        raise _failed(name, error) from None


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
