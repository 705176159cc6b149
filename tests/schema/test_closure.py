"""Which files an operation of a user's is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pfstudy.schema import imports
from pfstudy.schema.closure import older_source_digest, source_digest, source_files
from pfstudy.schema.imports import import_modules
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN, find_operation

REGISTER = """
from pfstudy import Operation, register
def build(layer):
    return layer
register(Operation("mine", build, trainable=False))
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    operations, places = dict(OPERATIONS), dict(REGISTERED_IN)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    imports._import.cache_clear()
    for registry, content in ((OPERATIONS, operations), (REGISTERED_IN, places)):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(content)  # type: ignore[attr-defined]


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found_in(root: Path, *names: str) -> tuple[set[str], tuple[str, ...]]:
    """The files of the operation that some modules register, and what could not be followed."""
    import_modules(names)
    found = source_files(find_operation("mine"))
    assert found is not None
    assert found.root == root
    return {str(path.relative_to(root)) for path in found.files}, found.unfollowed


A_B = {"a/b.py": "x = 1\n", "a/other.py": "", "c.py": ""}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("import a.b", id="import a.b"),
        pytest.param("from a import b", id="from a import b"),
        pytest.param("from a.b import x", id="from a.b import x"),
        pytest.param("def later():\n    import a.b", id="in a function"),
        pytest.param("import importlib\nimportlib.import_module('a.b')", id="import_module"),
        pytest.param("from importlib import import_module as load\nload('a.b')", id="its alias"),
        pytest.param("__import__('a.b')", id="__import__"),
        pytest.param("try:\n    import a.b\nexcept ImportError:\n    pass", id="in a try"),
    ],
)
@pytest.mark.parametrize("name", ["my_ops", "my_ops.py"])
def test_imports_from_a_namespace_package_are_followed(
    workplace: Path, name: str, line: str
) -> None:
    write(workplace, {**A_B, "my_ops.py": f"{line}\n{REGISTER}"})
    assert found_in(workplace, name) == ({"my_ops.py", "a/b.py"}, ())
    before = source_digest(find_operation("mine"))
    (workplace / "a" / "b.py").write_text("x = 2\n")
    assert source_digest(find_operation("mine")) != before


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("from . import blur", id="from . import"),
        pytest.param("from .blur import x", id="from .blur import"),
        pytest.param("from ..parts import far", id="from the package above"),
        pytest.param(
            "from importlib import import_module\nimport_module('.blur', __package__)",
            id="import_module",
        ),
        pytest.param(
            "from importlib import import_module\nimport_module('.blur', package='proj.ops')",
            id="import_module of a named package",
        ),
    ],
)
def test_relative_imports_are_followed(workplace: Path, line: str) -> None:
    files = {"proj/ops/blur.py": "x = 1\n", "proj/parts/far.py": "", "proj/ops/other.py": ""}
    write(workplace, {**files, "proj/ops/mine.py": f"{line}\n{REGISTER}"})
    other = "proj/parts/far.py" if ".." in line else "proj/ops/blur.py"
    assert found_in(workplace, "proj.ops.mine") == ({"proj/ops/mine.py", other}, ())


def test_what_is_imported_is_followed_in_turn(workplace: Path) -> None:
    chain = {"a/b.py": "from . import d\n", "a/d.py": "import c\n", "c.py": "import my_ops\n"}
    write(workplace, {**chain, "my_ops.py": REGISTER.replace("def", "import a.b\ndef", 1)})
    assert found_in(workplace, "my_ops") == ({"my_ops.py", "a/b.py", "a/d.py", "c.py"}, ())


def test_a_package_counts_as_a_whole_with_what_it_imports_beside_itself(workplace: Path) -> None:
    files = {"pack/__init__.py": "", "pack/ops.py": f"import c\n{REGISTER}", "pack/unused.py": ""}
    write(workplace, {**files, "c.py": "", "d.py": ""})
    found = {"pack/__init__.py", "pack/ops.py", "pack/unused.py", "c.py"}
    assert found_in(workplace, "pack.ops") == (found, ())


def test_installed_packages_beside_it_are_not_followed(workplace: Path) -> None:
    installed = workplace / "site-packages"
    write(installed, {"my_ops.py": f"import c\n{REGISTER}", "c.py": ""})
    assert found_in(installed, str(installed / "my_ops.py")) == ({"my_ops.py"}, ())


def test_a_compiled_module_counts(workplace: Path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    compiled = f"fast{EXTENSION_SUFFIXES[0]}"
    text = f"def later():\n    import fast\n{REGISTER}"
    write(workplace, {compiled: "", "my_ops.py": text})
    assert found_in(workplace, "my_ops") == ({"my_ops.py", compiled}, ())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param("import_module(name)", "import_module(name)", id="a name"),
        pytest.param("import_module(f'a.{name}')", "import_module(f'a.{name}')", id="an f-string"),
        pytest.param("import_module('.b', name)", "import_module('.b', name)", id="a package"),
        pytest.param("exec(open('c.py').read())", "exec(open('c.py').read())", id="exec"),
        pytest.param("sys.path.append('lib')", "changes sys.path", id="the search path"),
        pytest.param("sys.path += ['lib']", "changes sys.path", id="the search path, added to"),
    ],
)
def test_what_cannot_be_followed_is_said(workplace: Path, line: str, told: str) -> None:
    text = f"import sys\nfrom importlib import import_module\ndef later(name):\n    {line}\n"
    write(workplace, {"my_ops.py": text + REGISTER})
    assert found_in(workplace, "my_ops") == ({"my_ops.py"}, (f"my_ops.py, line 4: {told}",))


def test_methods_of_these_names_are_nothing_of_the_kind(workplace: Path) -> None:
    text = "def later(network, cursor):\n    network.eval()\n    cursor.exec('x')\n"
    write(workplace, {"my_ops.py": text + REGISTER})
    assert found_in(workplace, "my_ops") == ({"my_ops.py"}, ())


def test_a_file_that_is_no_python_is_said(workplace: Path) -> None:
    files = {"pack/__init__.py": "", "pack/ops.py": REGISTER, "pack/template.py": "{{ nothing }"}
    write(workplace, files)
    found, unfollowed = found_in(workplace, "pack.ops")
    assert found == set(files)
    assert unfollowed == ("pack/template.py: is no Python that can be read",)


class TestOlderRule:
    @pytest.mark.parametrize(
        "files",
        [
            pytest.param({"my_ops.py": REGISTER}, id="one file"),
            pytest.param({"my_ops.py": f"import c\n{REGISTER}", "c.py": ""}, id="two files"),
            pytest.param(
                {"my_ops.py": f"import p\n{REGISTER}", "p/__init__.py": "", "p/q.py": ""},
                id="a package",
            ),
        ],
    )
    def test_what_it_followed_has_the_digest_of_then(
        self, workplace: Path, files: dict[str, str]
    ) -> None:
        write(workplace, files)
        import_modules(["my_ops"])
        operation = find_operation("mine")
        assert source_digest(operation) == older_source_digest(operation) is not None

    def test_what_it_did_not_follow_has_another(self, workplace: Path) -> None:
        write(workplace, {**A_B, "my_ops.py": f"import a.b\n{REGISTER}"})
        import_modules(["my_ops"])
        operation = find_operation("mine")
        assert source_digest(operation) != older_source_digest(operation)
