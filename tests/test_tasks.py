from __future__ import annotations

import pytest

from pfstudy.tasks import gpu_id


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        pytest.param(None, ["GPU-a", "GPU-b"], id="all"),
        pytest.param("", ["GPU-a", "GPU-b"], id="none"),
        pytest.param("2,0", ["GPU-a", "GPU-b"], id="numbers"),
        pytest.param("GPU-a,GPU-b", ["GPU-a", "GPU-b"], id="uuids"),
        pytest.param("MIG-x, MIG-y", ["MIG-x", "MIG-y"], id="parts"),
        pytest.param("MIG-x", ["MIG-x", "GPU-b"], id="fewer"),
    ],
)
def test_a_gpu_is_called_what_makes_it_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu_id(uuid, index) for index, uuid in enumerate("ab")] == expected
