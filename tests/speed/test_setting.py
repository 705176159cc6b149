from __future__ import annotations

import platform
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from configs import compose, variant_of
from measurements import SETTING
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Speed
from pfstudy.speed import setting
from pfstudy.speed.setting import (
    KEYS,
    MEASURING,
    VERSION,
    check_segments,
    check_settings,
    complete_setting,
    describe_setting,
    expected_place,
    name_setting,
    setting_of,
)

PLACE = {"device": "Some CPU", "host": "here", "driver": None}


def speed(**changes: Any) -> Speed:
    return replace(compose().speed, **changes)


@pytest.fixture
def _onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that it is installed."""
    monkeypatch.setattr(setting, "find_spec", lambda name: True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {}, "Some CPU, 1 thread, batch 1, contiguous, float32, eager", id="everything usual"
        ),
        pytest.param(
            {
                "num_threads": 4,
                "batch_size": 8,
                "layout": "channels_last",
                "dtype": "bfloat16",
                "backend": "compile",
                "passes": "forward_backward",
                "cache": "cold",
                "cuda_graph": True,
            },
            "Some CPU, 4 threads, batch 8, channels_last, bfloat16, compile, forward and backward, "
            "cold cache, CUDA graph",
            id="nothing usual",
        ),
    ],
)
def test_a_setting_is_named(changes: dict[str, Any], expected: str) -> None:
    assert describe_setting(PLACE | setting_of(speed(**changes))) == expected


def test_what_is_named_elsewhere_is_left_out() -> None:
    described = describe_setting(PLACE | setting_of(speed()), ["batch_size", "device", "passes"])
    assert described == "1 thread, contiguous, float32, eager"


def test_a_setting_without_a_device_is_named_without() -> None:
    assert describe_setting(setting_of(speed())).startswith("1 thread, batch 1, ")


def test_a_setting_has_every_key_that_is_comparable() -> None:
    assert set(setting_of(speed())) == {*KEYS, VERSION, MEASURING}
    measured = PLACE | setting_of(speed()) | {"latency_ms": 1.0}
    assert complete_setting(measured) == PLACE | setting_of(speed())


def test_keys_that_an_older_measurement_lacks_have_their_only_value_of_then() -> None:
    old = {key: value for key, value in setting_of(speed()).items()
           if key not in ("passes", "cache", "cuda_graph", "measuring")}  # fmt: skip
    assert complete_setting({"device": "Some CPU", "host": "here"} | old) == PLACE | setting_of(
        speed()
    )


@pytest.mark.usefixtures("_onnxruntime")
@pytest.mark.parametrize(
    ("changes", "device_kind"),
    [
        pytest.param({}, None, id="usual"),
        pytest.param({"cuda_graph": True}, "gpu", id="graph on a GPU"),
        pytest.param({"cuda_graph": True}, None, id="graph where the device is not known"),
        pytest.param({"backend": "compile", "fallback": True}, "cpu", id="compile"),
        pytest.param({"backend": "compile_max_autotune", "fallback": True}, "gpu", id="autotune"),
        pytest.param({"backend": "compile", "passes": "forward_backward"}, "cpu", id="backward"),
        pytest.param({"backend": "onnxruntime", "dtype": "float16"}, "cpu", id="onnxruntime"),
        pytest.param({"max_processes": 5}, "cpu", id="as many as the least"),
    ],
)
def test_what_can_be_measured_is_not_refused(
    changes: dict[str, Any], device_kind: str | None
) -> None:
    check_settings(speed(**changes), device_kind)


@pytest.mark.usefixtures("_onnxruntime")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"max_processes": 4},
            "speed.max_processes is 4, but speed.num_processes, the least number, is 5.",
            id="processes",
        ),
        pytest.param(
            {"backend": "onnxruntime", "passes": "forward_backward"},
            "speed.backend=onnxruntime has no speed.passes=forward_backward; only forward.",
            id="onnxruntime, backward",
        ),
        pytest.param(
            {"backend": "onnxruntime", "layout": "channels_last"},
            "speed.backend=onnxruntime has no speed.layout=channels_last; only contiguous.",
            id="onnxruntime, layout",
        ),
        pytest.param(
            {"backend": "onnxruntime", "cuda_graph": True},
            "speed.backend=onnxruntime has no speed.cuda_graph=true; only false.",
            id="onnxruntime, graph",
        ),
        pytest.param(
            {"backend": "onnxruntime", "dtype": "bfloat16"},
            "speed.backend=onnxruntime computes no convolutions in bfloat16; use float32 or "
            "float16.",
            id="onnxruntime, bfloat16",
        ),
        pytest.param(
            {"cuda_graph": True},
            "speed.cuda_graph=true needs a GPU; this would measure the CPU.",
            id="graph on the CPU",
        ),
        pytest.param(
            {"dtype": "tf32"},
            "speed.dtype=tf32 needs a GPU; CPUs compute in float32 or bfloat16.",
            id="tf32 on the CPU",
        ),
        pytest.param(
            {"fallback": True},
            "speed.fallback=true is for backends that compile; speed.backend=eager does not.",
            id="fallback of eager",
        ),
        pytest.param(
            {"backend": "onnxruntime", "fallback": True},
            "speed.fallback=true is for backends that compile; speed.backend=onnxruntime does not.",
            id="fallback of onnxruntime",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_settings(speed(**changes), "cpu")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"passes": "forward_backward"}, id="backward"),
        pytest.param({"backend": "compile"}, id="compile"),
        pytest.param({"backend": "compile_max_autotune"}, id="autotune"),
    ],
)
def test_a_graph_is_of_an_eager_forward_pass(changes: dict[str, Any]) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_settings(speed(cuda_graph=True, **changes), "gpu")
    assert str(caught.value) == (
        "speed.cuda_graph=true replays a forward pass of backend eager; compile_max_autotune makes "
        "CUDA graphs by itself."
    )


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_backend_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(
        setting, "find_spec", lambda name: None if name == missing else find_spec("json")
    )
    with pytest.raises(PfstudyError) as caught:
        check_settings(speed(backend="onnxruntime"))
    assert str(caught.value) == (
        "speed.backend=onnxruntime is not installed: pip install 'pfstudy[onnxruntime]'."
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"backend": "onnxruntime"},
            "the time within a pass cannot be seen with speed.backend=onnxruntime.",
            id="onnxruntime",
        ),
        pytest.param(
            {"passes": "forward_backward"},
            "the time within a pass is that of speed.passes=forward alone.",
            id="backward",
        ),
        pytest.param(
            {"cuda_graph": True},
            "the time within a pass cannot be seen with speed.cuda_graph=true or speed.cache=cold.",
            id="graph",
        ),
        pytest.param(
            {"cache": "cold"},
            "the time within a pass cannot be seen with speed.cuda_graph=true or speed.cache=cold.",
            id="cold",
        ),
    ],
)
def test_a_pass_that_cannot_be_looked_into_is_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_segments(speed(**changes))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"fallback": True, "backend": "compile"}, "leave out", id="fallback"),
        pytest.param({"backend": "compile_max_autotune"}, "replays CUDA graphs", id="graphs"),
    ],
)  # fmt: skip
def test_a_pass_that_cannot_be_looked_into_on_a_gpu_is_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PfstudyError, match=sentence):
        check_segments(speed(**changes), "gpu")


@pytest.mark.parametrize("backend", ["eager", "compile", "compile_max_autotune"])
def test_a_pass_that_can_be_looked_into_is_not_refused(backend: str) -> None:
    check_segments(speed(backend=backend, layout="channels_last", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param([], {}, id="auto"),
        pytest.param(["trainer.accelerator=gpu"], {"device_kind": "gpu"}, id="where runs train"),
        pytest.param(
            ["trainer.accelerator=gpu", "speed.device=cpu"], {"device_kind": "cpu"}, id="named"
        ),
    ],
)
def test_the_kind_of_device_is_known_where_a_config_names_it(
    settings: list[str], expected: dict[str, str]
) -> None:
    found = expected_place(variant_of(*settings).config)
    assert found == {"host": platform.node(), **expected}


USUAL_NAME = "some-cpu_here_float32_contiguous_b1_t1_eager"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({}, USUAL_NAME, id="usual"),
        pytest.param({"passes": "forward_backward"}, f"{USUAL_NAME}_forward_backward", id="passes"),
        pytest.param({"cache": "cold"}, f"{USUAL_NAME}_cold", id="cold"),
        pytest.param({"cuda_graph": True}, f"{USUAL_NAME}_graph", id="graph"),
        pytest.param({"driver": "580.65.06"}, f"{USUAL_NAME}_driver580.65.06", id="driver"),
        pytest.param({"measuring": 2}, f"{USUAL_NAME}_measuring2", id="way of measuring"),
        pytest.param(
            {"backend": "compile", "num_threads": 4, "batch_size": 8, "dtype": "bfloat16"},
            "some-cpu_here_bfloat16_contiguous_b8_t4_compile",
            id="others",
        ),
    ],
)
def test_a_file_is_named_after_what_is_unusual(change: dict[str, Any], name: str) -> None:
    assert name_setting({**SETTING, "version": None} | change) == name
