"""The source files of a user's operation: those that register it, and what they import.

`source_files` computes this closure, once for all who need it. It follows imports within the
operation's own directory, as the text of the files states them, and reports what it cannot follow.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import REGISTERED_IN, Operation

_OURS = Path(__file__).resolve().parents[1]
_INSTALLED = ("site-packages", "dist-packages")
_BY_NAME = ("import_module", "__import__")
_OUT_OF_SIGHT = (
    *("exec", "eval", "run_path", "run_module"),
    *("spec_from_file_location", "SourceFileLoader"),
)
"""Functions that may run a file without an import."""


@dataclass(frozen=True)
class SourceFiles:
    """The files that an operation is made of.

    Attributes:
        root: The directory that its modules are imported from.
        files: Absolute paths in it, sorted.
        unfollowed: What the text of the files does not tell, as ``ops.py, line 3: ...``.
    """

    root: Path
    files: tuple[Path, ...]
    unfollowed: tuple[str, ...]


def source_files(operation: Operation) -> SourceFiles | None:
    """Find the source files of a user's operation; ``None`` for a shipped one.

    They are the file that registers the operation and all that it imports from its own directory:
    by ``import a.b``, relative imports, imports inside functions, ``import_module`` with a
    literal, and from namespace packages. Of a package with ``__init__.py`` all files count.

    Raises:
        PfstudyError: The file that registered the operation is not known.
    """
    registered = _registered(operation)
    return None if registered is None else _closure(registered)


def source_digest(operation: Operation) -> str | None:
    """Digest of the content of an operation's source files; ``None`` for a shipped one.

    Raises:
        PfstudyError: As `source_files`.
    """
    found = source_files(operation)
    return None if found is None else _digest_all(found.files)


def older_source_digest(operation: Operation) -> str | None:
    """`source_digest` as it was before it followed all imports; identifies older runs.

    It followed a file's plain imports by their first name, and of a package took its files alone.
    """
    registered = _registered(operation)
    if registered is None:
        return None
    package = _package_of(registered)
    try:
        return _digest_all(set(package.rglob("*.py")) if package else _older_closure(registered))
    except (SyntaxError, ValueError):  # no run can have it
        return None


def _registered(operation: Operation) -> Path | None:
    """The file that registers an operation, unless that is one of ours."""
    registered = Path(REGISTERED_IN.get(operation.name, "")).resolve()
    if registered.is_relative_to(_OURS):
        return None
    if not registered.is_file():
        raise PfstudyError(f"operation {operation.name!r}: its source is not known.")
    return registered


def _package_of(file: Path) -> Path | None:
    """The outermost package with ``__init__.py`` that a file lies in."""
    package = None
    for directory in file.parents:
        if not (directory / "__init__.py").is_file():
            return package
        package = directory
    return package


def _closure(registered: Path) -> SourceFiles:
    root = _root_of(registered)
    package = _package_of(registered)
    # others' packages beside it are installed, and versions tell them apart
    places = () if root.name in _INSTALLED else tuple(dict.fromkeys((root, registered.parent)))
    found = {registered, *(package.rglob("*.py") if package else ())}
    todo, unfollowed = sorted(found), set()
    while todo:
        file = todo.pop()
        if file.suffix != ".py":
            continue
        imported = _read(file, file.stat().st_mtime_ns)
        where = file.relative_to(root) if file.is_relative_to(root) else file
        unfollowed |= {(str(where), line, what) for line, what in imported.unfollowed}
        new = {path for name in imported.names for path in _resolve(name, file, root, places)}
        todo += sorted(new - found)
        found |= new
    lines = (
        f"{file}, line {line}: {what}" if line else f"{file}: {what}"
        for file, line, what in sorted(unfollowed)
    )
    return SourceFiles(root, tuple(sorted(found)), tuple(lines))


def _root_of(registered: Path) -> Path:
    """The directory that a file's module was imported from."""
    package = _package_of(registered)
    depth = _depth_of(str(registered))
    outermost = registered.parents[min(depth, len(registered.parents) - 1)]
    if package and not package.is_relative_to(outermost):
        return package.parent
    return outermost if package is None or outermost != package else package.parent


@lru_cache(maxsize=100)
def _depth_of(file: str) -> int:
    """Number of packages, perhaps without ``__init__.py``, that a file's module lies in."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == file or _is_same(module, file):
            return name.count(".")
    return 0


def _is_same(module: object, file: str) -> bool:
    other = getattr(module, "__file__", None)
    if not isinstance(other, str) or Path(other).name != Path(file).name:
        return False
    return str(Path(other).resolve()) == file


@dataclass(frozen=True)
class _Name:
    """A module that is imported: so many levels up, 0 from the root, and then the parts."""

    level: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class _Imported:
    names: frozenset[_Name]
    unfollowed: tuple[tuple[int, str], ...]


@lru_cache(maxsize=2_000)
def _read(file: Path, changed_ns: int) -> _Imported:
    """What a file imports, by its text."""
    del changed_ns
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return _Imported(frozenset(), ((0, "is no Python that can be read"),))
    names: set[_Name] = set()
    unfollowed = []
    aliases = {name: name for name in (*_BY_NAME, *_OUT_OF_SIGHT)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            aliases |= {a.asname: a.name for a in node.names if a.asname and a.name in aliases}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {_Name(0, tuple(alias.name.split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            names |= {_Name(node.level, (*base, alias.name)) for alias in node.names}
        elif isinstance(node, ast.Call):
            called = aliases.get(_called(node))
            if called in _BY_NAME:
                name = _literal_name(node)
                names |= {name} if name else set()
                unfollowed += [] if name else [(node.lineno, ast.unparse(node))]
            elif called is not None and not _is_method(node):
                unfollowed.append((node.lineno, ast.unparse(node)))
        if _is_search_path(node):
            unfollowed.append((node.lineno, "changes sys.path"))  # type: ignore[attr-defined]
    return _Imported(frozenset(names), tuple(unfollowed))


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _is_method(node: ast.Call) -> bool:
    """Whether ``eval`` and the like are called on something, as ``network.eval()``."""
    return isinstance(node.func, ast.Attribute) and node.func.attr in ("eval", "exec")


def _is_search_path(node: ast.AST) -> bool:
    """Whether ``sys.path`` is changed, by one of its methods or an assignment."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func) in ("sys.path.insert", "sys.path.append", "sys.path.extend")
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(ast.unparse(target).startswith("sys.path") for target in targets)
    return False


def _literal_name(node: ast.Call) -> _Name | None:
    """The module that ``import_module("...")`` imports, if the text says that."""
    given = [*node.args, *(k.value for k in node.keywords if k.arg == "name")]
    if not given or not isinstance(given[0], ast.Constant) or not isinstance(given[0].value, str):
        return None
    name = given[0].value
    level = len(name) - len(name.lstrip("."))
    parts = tuple(part for part in name[level:].split(".") if part)
    if not level:
        return _Name(0, parts)
    packages = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "package")]
    if len(packages) != 1:
        return None
    (package,) = packages
    if isinstance(package, ast.Name) and package.id == "__package__":
        return _Name(level, parts)
    if isinstance(package, ast.Constant) and isinstance(package.value, str):
        above = package.value.split(".")
        return _Name(0, (*above[: len(above) - level + 1], *parts)) if level <= len(above) else None
    return None


def _resolve(name: _Name, file: Path, root: Path, places: Iterable[Path]) -> Iterator[Path]:
    """The files that importing a name runs, as far as they lie in the operation's directory."""
    if name.level:
        base = file.parents[min(name.level, len(file.parents)) - 1]
        if base.is_relative_to(root):
            yield from _beside(base, name.parts)
        return
    for place in places:
        if not (place / name.parts[0]).is_relative_to(_OURS):
            yield from _beside(place, name.parts)


def _beside(directory: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files of ``a.b.c`` below a directory; the last part may be no module but something in one."""
    for number, part in enumerate(parts):
        package = directory / part
        if (package / "__init__.py").is_file():
            yield from package.rglob("*.py")
            return
        module = directory / f"{part}.py"
        if module.is_file():
            yield module
            return
        for suffix in EXTENSION_SUFFIXES:
            if (compiled := directory / f"{part}{suffix}").is_file():
                yield compiled
                return
        if not package.is_dir():
            return
        if number == len(parts) - 1:
            return  # a namespace package by itself runs nothing
        directory = package


def _digest_all(files: Iterable[Path]) -> str:
    digests = sorted(_digest(file, file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _digest(file: Path, changed_ns: int) -> str:
    del changed_ns
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _older_closure(file: Path) -> set[Path]:
    found, todo = {file}, [file]
    while todo:
        for name in _older_names(todo.pop()):
            beside = file.parent / name
            new = {beside.with_suffix(".py")} if beside.with_suffix(".py").is_file() else set()
            new |= set(beside.rglob("*.py")) if (beside / "__init__.py").is_file() else set()
            todo += new - found
            found |= new
    return found


def _older_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
