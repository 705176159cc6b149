from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import compose_alone, refusal
from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import build_network
from pfstudy.schema import imports
from pfstudy.schema.closure import source_digest
from pfstudy.schema.imports import import_modules, locate
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN, Operation, find_operation
from pfstudy.variant import make_variant

TESTS = Path(__file__).resolve().parents[1]

MINE = """
from pfstudy.schema.operations import Operation, register

def build(layer):
    from torch import nn
    return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)

register(Operation("{name}", {target}, trainable=False))
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    registered, loaded, path = dict(OPERATIONS), set(sys.modules), list(sys.path)
    files = dict(REGISTERED_IN)
    imports._import.cache_clear()
    yield tmp_path
    OPERATIONS.clear()
    OPERATIONS.update(registered)
    REGISTERED_IN.clear()
    REGISTERED_IN.update(files)
    sys.path[:] = path
    sys.path_importer_cache.pop(str(tmp_path), None)
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    imports._import.cache_clear()


def write(path: Path, name: str = "mine", target: str = "build") -> Path:
    """A module of the user's that registers an operation."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(MINE.format(name=name, target=target))
    return path


def test_a_module_in_the_working_directory_is_imported(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    import_modules(["my_ops"])
    assert find_operation("mine").target is sys.modules["my_ops"].build  # type: ignore[attr-defined]


def test_a_module_in_a_package_is_imported(workplace: Path) -> None:
    write(workplace / "my_package" / "ops.py")
    (workplace / "my_package" / "__init__.py").touch()
    import_modules(["my_package.ops"])
    assert "mine" in OPERATIONS


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_is_imported(workplace: Path, absolute: bool) -> None:
    path = write(workplace / "elsewhere" / "my_file_ops.py")
    import_modules([str(path if absolute else path.relative_to(workplace))])
    assert "mine" in OPERATIONS


def test_a_module_is_imported_once(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    import_modules(["my_ops", "my_ops"])
    import_modules(["my_ops"])
    write(workplace / "file_ops.py", "other")
    import_modules(["file_ops.py", "file_ops.py"])
    assert list(OPERATIONS)[-2:] == ["mine", "other"]


def test_a_file_and_a_module_of_that_name_are_one(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    import_modules(["my_ops", "my_ops.py", str(workplace / "my_ops.py")])
    assert list(OPERATIONS)[-1] == "mine"


def test_a_file_that_has_the_name_of_another_module_is_refused(workplace: Path) -> None:
    write(workplace / "json.py")
    with pytest.raises(
        PfstudyError, match=r"^imports: .*/json\.py has the name of a module that is"
    ):
        import_modules(["json.py"])
    assert "mine" not in OPERATIONS


def test_an_operation_of_the_users_stands_at_a_site(workplace: Path) -> None:
    import torch

    write(workplace / "my_ops.py")
    config = compose_alone("imports=[my_ops]", "block.spatial=mine")
    assert {site.operation for site in config.sites} == {"mine"}
    network = build_network(config, seed=0)
    assert isinstance(network.get_submodule("layer1.0.conv2"), torch.nn.AvgPool2d)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_without_its_import_an_operation_does_not_exist(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    assert refusal("block.spatial=mine").startswith("operation 'mine' does not exist; choose from:")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        pytest.param("my_ops", None, "imports: there is no module 'my_ops' in {place} or on "
                     "Python's path.", id="no module"),
        pytest.param("my.ops", None, "imports: my.ops cannot be imported: ModuleNotFoundError: No "
                     "module named 'my'.", id="no package"),
        pytest.param("my_ops.py", None, "imports: there is no file {place}/my_ops.py.",
                     id="no file"),
        pytest.param("my_ops", "import no_such_module\n", "imports: my_ops cannot be imported: "
                     "ModuleNotFoundError: No module named 'no_such_module', line 1.",
                     id="what it imports is missing"),
        pytest.param("my_ops", "\n\ndef build(layer:\n", "imports: my_ops cannot be imported: "
                     "SyntaxError: '(' was never closed (my_ops.py, line 3).", id="syntax"),
        pytest.param("my_ops.py", "def build(layer:\n", "imports: {place}/my_ops.py cannot be "
                     "imported: SyntaxError: '(' was never closed (my_ops.py, line 1).",
                     id="syntax of a file"),
        pytest.param("my_ops", "\n\nregister()\n", "imports: my_ops cannot be imported: NameError: "
                     "name 'register' is not defined, line 3.", id="name"),
        pytest.param("my_ops.py", "\nregister()\n", "imports: {place}/my_ops.py cannot be "
                     "imported: NameError: name 'register' is not defined, line 2.",
                     id="name in a file"),
        pytest.param("my_ops", "import json\n\njson.loads('')\n", "imports: my_ops cannot be "
                     "imported: JSONDecodeError: Expecting value: line 1 column 1 (char 0), line "
                     "3.", id="an error of another module"),
        pytest.param("my_ops", MINE.format(name="maxpool", target="build"), "operation 'maxpool' "
                     "is registered already.", id="a name that is taken"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_named(
    workplace: Path, name: str, content: str | None, sentence: str
) -> None:
    if content is not None:
        (workplace / "my_ops.py").write_text(content)
    before = list(OPERATIONS)
    with pytest.raises(PfstudyError) as caught:
        import_modules([name])
    assert str(caught.value) == sentence.format(place=workplace)
    assert list(OPERATIONS) == before
    assert "my_ops" not in sys.modules


@pytest.mark.parametrize("name", ["my_ops", "my_ops.py"])
def test_a_module_that_was_mended_is_imported(workplace: Path, name: str) -> None:
    (workplace / "my_ops.py").write_text("nonsense\n")
    with pytest.raises(PfstudyError, match="'nonsense' is not defined, line 1"):
        import_modules([name])
    write(workplace / "my_ops.py")
    import_modules([name])
    assert "mine" in OPERATIONS


def test_two_modules_cannot_register_one_name(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    write(workplace / "other_ops.py")
    with pytest.raises(PfstudyError, match="operation 'mine' is registered already"):
        import_modules(["my_ops", "other_ops"])
    assert find_operation("mine").target is sys.modules["my_ops"].build  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["maxpool", "dwconv"])
def test_an_operation_of_ours_has_no_digest(name: str) -> None:
    assert source_digest(find_operation(name)) is None


def digest_of(path: Path, content: str | None = None) -> str | None:
    """The digest of the user's operation, after a change of a file."""
    if content is not None:
        path.write_text(content)
    return source_digest(find_operation("mine"))


def append(path: Path) -> str:
    return path.read_text() + "# another comment\n"


@pytest.mark.parametrize(
    "target", [pytest.param("build", id="function"), pytest.param("'my_ops:build'", id="its name")]
)
def test_the_digest_is_that_of_the_users_file(workplace: Path, target: str) -> None:
    path = write(workplace / "my_ops.py", target=target)
    import_modules(["my_ops"])
    before = digest_of(path)
    assert before is not None
    assert digest_of(workplace / "unrelated.py", "") == before
    assert digest_of(path, append(path)) != before


@pytest.mark.parametrize("name", ["my_ops", "my_ops.py"])
def test_the_digest_covers_what_the_file_imports_beside_itself(workplace: Path, name: str) -> None:
    path, helper = write(workplace / "my_ops.py"), workplace / "my_helper.py"
    path.write_text(f"import my_helper\n{path.read_text()}")
    helper.touch()
    import_modules([name])
    before = digest_of(path)
    assert digest_of(workplace / "unrelated.py", "") == before
    assert digest_of(helper, "x = 1\n") != before
    assert digest_of(helper, "") == before


def test_the_digest_covers_all_files_of_a_package(workplace: Path) -> None:
    path = write(workplace / "my_package" / "ops.py")
    for directory in (path.parent, path.parent / "part"):
        directory.mkdir(exist_ok=True)
        (directory / "__init__.py").touch()
    import_modules(["my_package.ops"])
    before = digest_of(path)
    assert digest_of(workplace / "unrelated.py", "") == before
    assert digest_of(path.parent / "part" / "never_imported.py", "") != before


def test_an_operation_that_no_file_registered_is_named() -> None:
    with pytest.raises(PfstudyError, match=r"^operation 'gone': its source is not known\.$"):
        source_digest(Operation("gone", "gone:build", trainable=False))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("my_ops", "{place}:my_ops", id="module"),
        pytest.param("my_package.ops", "{place}:my_package.ops", id="module of a package"),
        pytest.param("my_ops.py", "{place}/my_ops.py", id="file"),
        pytest.param("json", "json", id="module that lies elsewhere"),
    ],
)
def test_what_is_imported_is_found_again_from_any_directory(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    write(workplace / "my_ops.py")
    write(workplace / "my_package" / "ops.py")
    import_modules([name])
    located = locate(name)
    assert located == found.format(place=workplace)
    monkeypatch.chdir("/")
    registered = OPERATIONS.pop("mine", None)
    sys.modules.pop(name.removesuffix(".py") if registered else "", None)
    imports._import.cache_clear()
    import_modules([located])
    assert ("mine" in OPERATIONS) == (registered is not None)


def test_a_module_that_is_no_longer_where_it_lay_is_named(workplace: Path) -> None:
    with pytest.raises(PfstudyError, match=r"there is no module 'my_ops' in /nowhere or on Python"):
        import_modules(["/nowhere:my_ops"])


@pytest.mark.parametrize("name", ["my_ops", "my_ops.py"])
def test_a_module_that_fails_leaves_no_operation(workplace: Path, name: str) -> None:
    path = write(workplace / "my_ops.py")
    path.write_text(f"{path.read_text()}\nnonsense\n")
    with pytest.raises(PfstudyError, match="'nonsense' is not defined"):
        import_modules([name])
    assert "mine" not in OPERATIONS
    write(path)
    import_modules([name])
    assert "mine" in OPERATIONS


def hash_of(*overrides: str) -> str:
    return make_variant(compose_alone(*overrides), "content").hash


def hash_in_a_process(workplace: Path, *overrides: str) -> str:
    program = (
        "import sys; from configs import compose_alone; from pfstudy.variant import make_variant; "
        "print(make_variant(compose_alone(*sys.argv[1:]), 'content').hash)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *overrides],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["my_ops", "elsewhere/my_ops.py"])
def test_a_variant_is_identified_by_the_source_of_its_operation(workplace: Path, name: str) -> None:
    path = write(workplace / f"{name.removesuffix('.py')}.py")
    overrides = (f"imports=[{name}]", "block.spatial=mine")
    before = hash_of(*overrides)
    assert hash_in_a_process(workplace, *overrides) == before
    path.write_text(path.read_text() + "# another comment\n")
    os.utime(path, ns=(0, 0))
    after = hash_in_a_process(workplace, *overrides)
    assert after != before
    assert hash_of(*overrides) == after


def test_operations_of_ours_do_not_depend_on_what_is_imported(workplace: Path) -> None:
    write(workplace / "my_ops.py")
    assert hash_of("imports=[my_ops]", "block.spatial=maxpool") == hash_of("block.spatial=maxpool")
