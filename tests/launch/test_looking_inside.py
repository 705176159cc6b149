"""What looks into a pass, without a device to look at."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from configs import compose, variant_of
from pfstudy.errors import PfstudyError
from pfstudy.launch import inside
from pfstudy.schema.config import Config
from pfstudy.speed.blocktable import BlockTable, backbone_of, save_table, table_path
from pfstudy.speed.setting import setting_of
from pfstudy.tasks import Device


@pytest.mark.parametrize(
    "look_inside",
    [
        pytest.param(lambda configs: inside.make_block_table(configs, 1.0), id="table"),
        pytest.param(inside.explain_layers, id="by layer"),
    ],
)
def test_what_cannot_be_seen_on_the_device_is_refused_once_that_is_known(
    look_inside: Callable[[Sequence[Config]], object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    gpu = Device("gpu", "GPU-0", "Some GPU")
    monkeypatch.setattr(inside, "Pool", lambda *_: nullcontext())
    monkeypatch.setattr(inside, "check_networks", lambda *_: {"auto": gpu})
    settings = ("speed.backend=compile_max_autotune", "block.spatial=maxpool")
    with pytest.raises(PfstudyError, match="compile_max_autotune on a GPU"):
        look_inside([compose(*settings)])


def test_what_a_table_lacks_is_named_with_its_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = variant_of()
    setting = {"host": platform.node(), "device": "Some CPU", **setting_of(backbone.config.speed)}
    cells = {site: {"original": 0.2, "maxpool": 0.1} for site in backbone.operations}
    table = BlockTable(setting, {}, "resnet_digits", backbone_of(backbone), 10.0, 0.2, cells)
    save_table(table_path(Path("runs"), backbone, setting), table)
    configs = [compose(f"block.stage2.spatial={operation}") for operation in ("maxpool", "avgpool")]
    assert inside.predict_speed(configs[:1])[0][1] == table
    with pytest.raises(PfstudyError) as caught:
        inside.predict_speed(configs)
    assert str(caught.value) == (
        "stage2=avgpool: the block table has no avgpool at stage2.block1, but original, maxpool; "
        "measure it with pfstudy speed table."
    )
