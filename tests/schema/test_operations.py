from __future__ import annotations

import pytest

from pfstudy.errors import PfstudyError
from pfstudy.schema import operations
from pfstudy.schema.operations import OPERATIONS, ORIGINAL, Operation, find_operation, register


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Operation]:
    """A registry that the test may change."""
    copied = dict(OPERATIONS)
    monkeypatch.setattr(operations, "OPERATIONS", copied)
    return copied


def test_the_shipped_operations() -> None:
    shipped = ["conv", "dwconv", "maxpool", "avgpool", "avgpool_conv", "identity"]
    assert [name for name in OPERATIONS if name in shipped] == shipped


@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        pytest.param("conv", True, id="conv"),
        pytest.param("dwconv", True, id="dwconv"),
        pytest.param("avgpool_conv", True, id="avgpool_conv"),
        pytest.param("maxpool", False, id="maxpool"),
        pytest.param("avgpool", False, id="avgpool"),
        pytest.param("identity", False, id="identity"),
    ],
)
def test_only_operations_with_parameters_are_called_trainable(name: str, trainable: bool) -> None:
    assert find_operation(name).trainable is trainable


def test_a_registered_operation_is_found(registry: dict[str, Operation]) -> None:
    mine = Operation("shift", "my_operations:shift", trainable=False)
    register(mine)
    assert find_operation("shift") is mine
    assert "shift" not in OPERATIONS  # the fixture keeps the shipped registry clean


@pytest.mark.parametrize("name", ["maxpool", ORIGINAL])
def test_a_name_is_registered_once(registry: dict[str, Operation], name: str) -> None:
    before = dict(registry)
    with pytest.raises(PfstudyError, match=f"operation '{name}' is registered already"):
        register(Operation(name, "my_operations:other", trainable=True))
    assert registry == before


def test_an_unknown_name_lists_the_choices_and_the_nearest() -> None:
    with pytest.raises(PfstudyError) as caught:
        find_operation("maxpol")
    assert str(caught.value).startswith("operation 'maxpol' does not exist; choose from: original,")
    assert str(caught.value).endswith("Did you mean 'maxpool'?")
    assert all(name in str(caught.value) for name in OPERATIONS)


def test_a_name_far_from_all_others_gets_no_suggestion() -> None:
    with pytest.raises(PfstudyError) as caught:
        find_operation("zzz")
    assert "Did you mean" not in str(caught.value)
