"""The user's own modules, which register operations when they are imported."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN, Operation

_OURS = Path(__file__).resolve().parents[1]


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


def source_digest(operation: Operation) -> str | None:
    """Digest of the code of a user's operation; ``None`` for one of ours.

    It covers the file that registers the operation and what that imports from its own directory;
    of a package, all files.
    """
    registered = Path(REGISTERED_IN.get(operation.name, "")).resolve()
    if registered.is_relative_to(_OURS):
        return None
    if not registered.is_file():
        raise PfstudyError(f"operation {operation.name!r}: its source is not known.")
    package = registered.parent
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    if (package / "__init__.py").is_file():
        files = set(package.rglob("*.py"))
    else:
        files = _with_imports(registered)
    digests = sorted(_digest(file, file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _digest(file: Path, changed_ns: int) -> str:
    del changed_ns
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _with_imports(file: Path) -> set[Path]:
    """A file and all that it imports from its own directory, as its text says."""
    found, todo = {file}, [file]
    while todo:
        for name in _imported(todo.pop()):
            beside = file.parent / name
            new = {beside.with_suffix(".py")} if beside.with_suffix(".py").is_file() else set()
            new |= set(beside.rglob("*.py")) if (beside / "__init__.py").is_file() else set()
            todo += new - found
            found |= new
    return found


def _imported(file: Path) -> set[str]:
    """Top names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


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
