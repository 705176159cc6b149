from __future__ import annotations

from functools import partial

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


TRAINABLE = [
    *["conv", "groupconv", "dwconv", "dilated_conv", "avgpool_conv"],
    *["deform_maxpool", "self_attention"],
]
NOT_TRAINABLE = [
    *["maxpool", "minpool", "medianpool", "avgpool", "lppool", "poolformer", "blurpool", "shift"],
    *["maxpool_mlp", "avgpool_mlp", "fourier", "identity"],
]


def test_the_shipped_operations() -> None:
    assert sorted(OPERATIONS) == sorted([*TRAINABLE, *NOT_TRAINABLE])


@pytest.mark.parametrize("name", [*TRAINABLE, *NOT_TRAINABLE])
def test_trainable_is_what_mixes_positions_by_parameters(name: str) -> None:
    assert find_operation(name).trainable is (name in TRAINABLE)


def test_what_changes_channels_needs_no_projection() -> None:
    changing = [name for name, operation in OPERATIONS.items() if operation.changes_channels]
    expected = ["conv", "groupconv", "dilated_conv", "avgpool_conv"]
    assert changing == [*expected, "maxpool_mlp", "avgpool_mlp", "self_attention"]


def test_pools_that_copy_a_single_pixel_are_called_the_identity() -> None:
    copying = [name for name, operation in OPERATIONS.items() if operation.at_kernel_1]
    assert copying == ["maxpool", "minpool", "medianpool", "avgpool", "blurpool", "shift"]
    assert {OPERATIONS[name].at_kernel_1 for name in copying} == {"identity"}


@pytest.mark.parametrize("name", [*TRAINABLE, *NOT_TRAINABLE])
def test_a_cost_function_stands_beside_every_builder(name: str) -> None:
    operation = find_operation(name)
    assert operation.cost == f"{operation.target}_cost"


def test_a_registered_operation_is_found(registry: dict[str, Operation]) -> None:
    mine = Operation("mine", "my_operations:mine", trainable=False)
    register(mine)
    assert find_operation("mine") is mine
    assert "mine" not in OPERATIONS  # the fixture keeps the shipped registry clean


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


def test_a_target_whose_source_cannot_be_told_is_refused(registry: dict[str, Operation]) -> None:
    with pytest.raises(PfstudyError, match="must be a function or a class, but is a partial"):
        register(Operation("mine", partial(print), trainable=False))
    assert "mine" not in registry
