"""``pfstudy explain``: Grad-CAM against our own, what is refused, the picture, the console."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from configs import compose, tiny_vit
from pfstudy import cli, files, inventory, store
from pfstudy.data.splitting import split_heap
from pfstudy.errors import PfstudyError
from pfstudy.explanation.content import Chosen, Explained, Explanations
from pfstudy.explanation.gradcam import _read_images, block_path, compute_maps, explain
from pfstudy.figures.explanation import save_explanations
from pfstudy.launch import explain as launch
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config
from pfstudy.schema.sites import list_sites
from run_directories import write_run


def ignore(kind: str, details: Mapping[str, Any]) -> None:
    del kind, details


def by_hand(
    network: nn.Module,
    path: str,
    images_NCHW: torch.Tensor,
    classes: Sequence[int],
    prefix_tokens: int = 0,
) -> np.ndarray:
    """Grad-CAM as the paper writes it, with autograd alone."""
    kept = []
    handle = network.get_submodule(path).register_forward_hook(lambda *call: kept.append(call[2]))
    logits_NK = network(images_NCHW)
    handle.remove()
    (a,) = kept
    (gradient,) = torch.autograd.grad(logits_NK[range(len(classes)), classes].sum(), a)
    if a.dim() == 3:
        side = round((a.shape[1] - prefix_tokens) ** 0.5)
        a, gradient = (
            t[:, prefix_tokens:].transpose(1, 2).reshape(len(t), -1, side, side)
            for t in (a, gradient)
        )
    map_NHW = (gradient.mean((2, 3), keepdim=True) * a).sum(1).relu().detach()
    low, high = map_NHW.amin((1, 2), keepdim=True), map_NHW.amax((1, 2), keepdim=True)
    scaled_N1HW = ((map_NHW - low) / (high - low))[:, None]
    size = images_NCHW.shape[2:]
    large = functional.interpolate(scaled_N1HW, size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - low) / (high - low)).numpy()


CASES = {
    "map of the image's size": (("block.spatial=original",), "stage1.block2", "layer1.1"),
    "smaller map": (("block.spatial=original",), "stage2.block2", "layer2.1"),
    "parameter-free": (("block.spatial=maxpool",), "stage2.block2", "layer2.1"),
    "tokens": (("model=vit_digits", "block.spatial=original"), "stage1.block4", "blocks.3"),
    "parameter-free tokens": (
        ("model=vit_digits", "block.spatial=maxpool_mlp"),
        "stage1.block3",
        "blocks.2",
    ),
}


class TestMaps:
    @pytest.mark.parametrize("case", CASES)
    def test_are_those_of_our_own_computation(self, case: str) -> None:
        overrides, address, path = CASES[case]
        config = compose(*overrides)
        network = build_network(config, seed=2).eval()
        images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        sites = [site for site in list_sites(config.model) if site.address == address]
        block, maps_NHW = compute_maps(network, sites, images, [0, 4, 9])
        assert block == address
        expected = by_hand(network, path, images, [0, 4, 9])
        assert expected.any((1, 2)).all()
        np.testing.assert_allclose(maps_NHW, expected, atol=1e-5)

    def test_behind_a_class_token_the_block_before_the_last_is_taken(self) -> None:
        config = tiny_vit()
        network = build_network(config, seed=0).eval()
        images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        sites = list_sites(config.model)
        block, maps_NHW = compute_maps(network, sites, images, [3, 5])
        assert block == "stage1.block1"
        np.testing.assert_allclose(
            maps_NHW, by_hand(network, "blocks.0", images, [3, 5], prefix_tokens=1), atol=1e-5
        )
        with pytest.raises(PfstudyError, match=r"not depend on the grid behind stage1\.block2, as"):
            compute_maps(network, sites[1:], images, [3, 5])

    def test_leave_the_network_as_it_was(self) -> None:
        config = compose("block.spatial=maxpool")
        network = build_network(config, seed=0).eval()
        compute_maps(network, list_sites(config.model), torch.randn(1, 1, 8, 8), [0])
        assert not any(module._forward_hooks for module in network.modules())

    @pytest.mark.parametrize(
        ("model", "path"),
        [
            ("resnet50", "layer4.2"),
            ("regnety_004", "s4.b6"),
            ("swin_t", "layers.3.blocks.1"),
            ("pit_ti", "transformers.2.blocks.3"),
            ("mobilenetv2", "blocks.6.0"),
        ],
    )
    def test_are_of_the_block_around_a_site(self, model: str, path: str) -> None:
        assert block_path(list_sites(compose(f"model={model}").model)[-1]) == path


@pytest.fixture(scope="module")
def trained(own_sweep: Any) -> list[Chosen]:
    """The backbone and a user's operation, trained for an epoch."""
    return [
        Chosen("original (conv)", 0, own_sweep.run_dir("original")),
        Chosen("mine", 0, own_sweep.run_dir("mine")),
    ]


@pytest.fixture
def copied(trained: Sequence[Chosen], tmp_path: Path) -> Chosen:
    """A run directory to spoil."""
    return replace(
        trained[0], directory=shutil.copytree(trained[0].directory, tmp_path / "x-0123" / "seed0")
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """An explanation sets the number of threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def edit_config(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    written = files.read_json(directory / store.CONFIG)
    edit(written)
    files.write_json(directory / store.CONFIG, written)


@pytest.mark.usefixtures("one_thread")
class TestExplain:
    def test_predictions_are_those_that_the_runs_kept(self, trained: Sequence[Chosen]) -> None:
        indices = [499, 0, 7]
        found = explain(trained, indices, "stage2", "predicted", ignore)
        assert [network.block for network in found.networks] == ["stage2.block2"] * 2
        for network in found.networks:
            with np.load(network.chosen.directory / "predictions.npz") as kept:
                logits_NK, labels_N = kept["logits"][indices], kept["labels"][indices]
            exponents = np.exp(logits_NK)
            shares = exponents.max(1) / exponents.sum(1)
            np.testing.assert_array_equal(network.predicted_N, logits_NK.argmax(1))
            np.testing.assert_array_equal(network.target_N, network.predicted_N)
            np.testing.assert_allclose(network.probability_N, shares, rtol=1e-3)
            np.testing.assert_array_equal(found.labels_N, labels_N)
        digits = load_digits()
        members = split_heap(digits.target, compose().data)["test"][indices]
        np.testing.assert_allclose(
            found.images_NHWC[..., 0], digits.images[members] / 16, atol=1e-6
        )

    def test_the_true_class_can_be_explained(self, trained: Sequence[Chosen]) -> None:
        found = explain(trained, range(20), None, "true", ignore)
        network = found.networks[0]
        assert (network.predicted_N != found.labels_N).any()  # after one epoch
        np.testing.assert_array_equal(network.target_N, found.labels_N)
        data = found.as_data()
        json.dumps(data)
        assert data["networks"][0]["predictions"][3]["explained"] == str(found.labels_N[3])

    @pytest.mark.parametrize(
        ("indices", "stage", "sentence"),
        [
            ([3, 500], None, "there is no test image 500: data digits has 500 test images, counte"),
            ([-1], None, "there is no test image -1"),
            ([0], "stage3", "model resnet_digits: the stage 'stage3' does not exist; choose from: "
             "stage1, stage2, stage1.block1, "),
        ],
    )  # fmt: skip
    def test_a_place_that_is_not_there_is_one_sentence(
        self, trained: Sequence[Chosen], indices: list[int], stage: str | None, sentence: str
    ) -> None:
        with pytest.raises(PfstudyError) as caught:
            explain(trained, indices, stage, "predicted", ignore)
        assert str(caught.value).startswith(sentence)

    def test_a_run_without_weights_is_refused(self, copied: Chosen) -> None:
        (copied.directory / store.WEIGHTS).unlink()
        with pytest.raises(PfstudyError, match="has kept no weights"):
            explain([copied], [0], None, "predicted", ignore)

    def test_other_data_than_trained_on_is_refused(self, copied: Chosen) -> None:
        def edit(written: dict[str, Any]) -> None:
            written["identity"]["canonical"]["data"]["fingerprint"] = "another"

        edit_config(copied.directory, edit)
        with pytest.raises(PfstudyError, match="has been changed since; bring back what it was"):
            explain([copied], [0], None, "predicted", ignore)

    def test_data_that_are_gone_are_one_sentence(self, copied: Chosen) -> None:
        def edit(written: dict[str, Any]) -> None:
            written["config"]["data"] |= {"name": "npz", "path": "/nowhere/digits.npz"}

        edit_config(copied.directory, edit)
        with pytest.raises(PfstudyError, match=r"/nowhere/digits\.npz cannot be read"):
            explain([copied], [0], None, "predicted", ignore)


def test_images_of_a_folder_are_shown_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for number, name in enumerate(("ape", "bee", "cat")):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(pixels[number]).save(tmp_path / "val" / name / "0.png")
    config: Config = compose(
        *("data=imagefolder", f"data.path={tmp_path}", "data.num_classes=3"),
        *("data.crop_fraction=1", "data.mean=[0.4,0.5,0.6]", "data.std=[0.2,0.3,0.4]"),
    )
    images_NCHW, shown_NHWC, labels_N, classes = _read_images(config.data, [2, 0])
    assert classes == ("ape", "bee", "cat")
    assert labels_N.tolist() == [2, 0]
    np.testing.assert_allclose(shown_NHWC, pixels[[2, 0]] / 255, atol=1e-6)
    expected = (pixels[[2, 0]] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(images_NCHW.permute(0, 2, 3, 1), expected, atol=1e-5)


def make_records(root: Path, *runs: tuple[str, int]) -> list[dict[str, Any]]:
    """Records of runs that are done, by their overrides and seeds."""
    records = []
    for overrides, seed in runs:
        directory = write_run(root, *overrides.split(), seed=seed)
        identity = files.read_json(directory / store.CONFIG)["identity"]
        is_baseline = identity["hash"] == identity["baseline"]
        label = inventory.describe(directory).label
        variant = {"label": label, "is_baseline": is_baseline, "original": "conv"}
        records.append(
            {"identity": identity, "seed": seed, "variant": variant, "directory": directory}
        )
    return records


ONE_STAGE = "block.stage1.spatial=maxpool"
TWO_STAGES = "block.stage1.spatial=maxpool block.stage2.spatial=dwconv"


class TestChoice:
    def test_the_baseline_comes_first_and_seeds_are_shared(self, tmp_path: Path) -> None:
        records = make_records(
            tmp_path,
            *(("block.spatial=maxpool", seed) for seed in (0, 1, 2)),
            *(("block.spatial=original", seed) for seed in (1, 2)),
        )
        chosen = launch.choose_runs(records)
        assert [(one.name, one.seed) for one in chosen] == [("original (conv)", 1), ("maxpool", 1)]
        assert [one.seed for one in launch.choose_runs(records, "maxpool", seed=2)] == [2]
        assert {one.directory for one in chosen} <= {record["directory"] for record in records}
        with pytest.raises(PfstudyError, match="finished seed '0' does not exist; choose from: 1"):
            launch.choose_runs(records, seed=0)

    def test_labels_may_contain_commas(self, tmp_path: Path) -> None:
        records = make_records(tmp_path, (ONE_STAGE, 0), (TWO_STAGES, 0))
        text = "stage1=maxpool, stage2=dwconv,stage1=maxpool"
        chosen = launch.choose_runs(records, text)
        assert [one.name for one in chosen] == ["stage1=maxpool, stage2=dwconv", "stage1=maxpool"]

    def test_settings_tell_variants_of_one_label_apart(self, tmp_path: Path) -> None:
        records = make_records(tmp_path, (ONE_STAGE, 0), (f"{ONE_STAGE} recipe.lr=0.3", 0))
        names = [one.name for one in launch.choose_runs(records)]
        assert names == ["stage1=maxpool lr=0.2", "stage1=maxpool lr=0.3"]
        (chosen,) = launch.choose_runs(records, names[1])
        assert (chosen.name, chosen.directory) == ("stage1=maxpool", records[1]["directory"])

    def test_a_label_is_enough_where_one_variant_has_it(self, tmp_path: Path) -> None:
        records = make_records(tmp_path, (ONE_STAGE, 0), ("block.spatial=dwconv recipe.lr=0.3", 0))
        assert [one.name for one in launch.choose_runs(records, "dwconv")] == ["dwconv"]

    def test_an_unknown_label_names_the_nearest(self, tmp_path: Path) -> None:
        records = make_records(tmp_path, ("block.spatial=maxpool", 0), ("block.spatial=dwconv", 0))
        with pytest.raises(PfstudyError, match=r"variant 'maxpol' .*maxpool, dwconv.*'maxpool'\?"):
            launch.choose_runs(records, "dwconv,maxpol")

    def test_variants_of_different_data_are_refused(self, tmp_path: Path) -> None:
        records = make_records(tmp_path, (ONE_STAGE, 0), (f"{ONE_STAGE} data.num_test=400", 0))
        with pytest.raises(PfstudyError, match="were trained on different data"):
            launch.choose_runs(records)

    def test_more_variants_than_fit_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "MOST_VARIANTS", 1)
        records = make_records(tmp_path, (ONE_STAGE, 0), (TWO_STAGES, 0))
        with pytest.raises(PfstudyError, match="room for 1 variants, but these are 2; choose"):
            launch.choose_runs(records)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(PfstudyError) as caught:
        launch.explain_in_child([], [0])
    sentence = "pytorch-grad-cam is not installed: pip install 'pfstudy[explain]'."
    assert str(caught.value) == sentence


def make_explanations(num_networks: int = 2, classes: Sequence[str] = ("ape", "bee")) -> Any:
    """Two images and some networks, of which each second one sees a bee everywhere."""
    generator = np.random.default_rng(0)
    networks = []
    for number in range(num_networks):
        predicted = np.array([0, 1]) if number % 2 == 0 else np.array([1, 1])
        maps_NHW = generator.random((2, 8, 8), dtype=np.float32)
        maps_NHW[1, :, :] *= number % 2
        chosen = Chosen(f"variant{number}", 3, Path(f"run{number}"))
        networks.append(
            Explained(
                chosen, "stage1.block2", predicted, np.array([0.75, 0.996]), predicted, maps_NHW
            )
        )
    images_NHWC = generator.random((2, 8, 8, 1), dtype=np.float32)
    return Explanations("predicted", [4, 17], images_NHWC, np.array([0, 1]), classes, networks)


def texts(svg: Path) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.parse(svg).iter() if e.tag.endswith("text")]


class TestPicture:
    def test_says_what_is_seen_and_marks_what_is_wrong(self, tmp_path: Path) -> None:
        save_explanations(make_explanations(), tmp_path / "new" / "p.svg")
        found = texts(tmp_path / "new" / "p.svg")
        assert found.count("ape (75 %)") == 1
        assert found.count("✗ bee (75 %)") == 1
        assert found.count("bee (100 %)") == 2
        assert found.count("flat") == 1
        assert {"variant0", "variant1", "label ape", "label bee", "test image 17"} <= set(found)
        caption = " ".join(found)
        assert "Grad-CAM of the predicted class at the output of stage1.block2, seed 3" in caption
        assert "✗: wrong prediction." in caption
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.svg"]

    def test_of_a_pdf_is_text(self, tmp_path: Path) -> None:
        save_explanations(make_explanations(3), tmp_path / "p.pdf")
        (page,) = PdfReader(tmp_path / "p.pdf").pages
        assert "✗ bee (75 %)" in page.extract_text()
        assert float(page.mediabox.width) == pytest.approx(252)  # a column of a paper

    def test_of_many_networks_is_two_columns_wide(self, tmp_path: Path) -> None:
        save_explanations(make_explanations(8), tmp_path / "p.pdf")
        (page,) = PdfReader(tmp_path / "p.pdf").pages
        assert float(page.mediabox.width) == pytest.approx(516)

    def test_of_a_png_has_300_ppi_and_no_date(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.PNG"):
            save_explanations(make_explanations(), tmp_path / name)
        with Image.open(tmp_path / "a.png") as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.PNG").read_bytes()

    def test_names_that_are_too_long_are_cut(self, tmp_path: Path) -> None:
        classes = ("n02504458 African elephant", "bee")
        save_explanations(make_explanations(classes=classes), tmp_path / "p.svg")
        found = texts(tmp_path / "p.svg")
        assert any(text.startswith("n02504458") and text.endswith("…") for text in found)
        assert not any("elephant" in text for text in found)

    def test_blocks_stand_above_the_networks_if_they_differ(self, tmp_path: Path) -> None:
        made = make_explanations()
        other = replace(made.networks[1], block="stage1.block1")
        save_explanations(replace(made, networks=[made.networks[0], other]), tmp_path / "p.svg")
        assert {"at stage1.block1", "at stage1.block2"} <= set(texts(tmp_path / "p.svg"))

    def test_that_cannot_be_written_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PfstudyError, match=r"p\.png cannot be written"):
            save_explanations(make_explanations(), tmp_path / "file" / "p.png")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "p.jpg"], "p.jpg has no ending of a picture; use .svg, .pdf, .png."),
        (["--images", "1,two"], "--images lists numbers such as 0,7,42, but got '1,two'."),
        (["--images", ",".join(map(str, range(25)))],
         "a picture has room for 24 images, but --images lists 25."),
        (["--target", "tru"],
         "target 'tru' does not exist; choose from: predicted, true. Did you mean 'true'?"),
        (["wandb:me/mine"], "explain needs weights, which wandb:me/mine lacks; give a directory."),
        (["nowhere"], "there is no directory nowhere; give the one that runs were made in."),
        (["."], "there are no finished runs here, whose weights could be explained."),
        ([".", "--study", "mine"], "study 'mine' does not exist; choose from: none."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_writes_nothing(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pfstudy", "explain", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (2, f"pfstudy: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_picture_and_says_what_is_on_it(
    own_sweep: Any, pfstudy: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    directory = own_sweep.directory
    (study,) = (path.stem for path in directory.glob("runs/studies/*.json"))
    asked = ("--study", study, "--images", "0,3", "-o", "pictures/p.pdf", "--json")
    done = pfstudy(directory, "explain", *asked)
    assert (done.returncode, done.stderr) == (0, "explain 2 networks, 2 test images\n")
    data = json.loads(done.stdout)
    assert data["picture"] == "pictures/p.pdf"
    assert [image["index"] for image in data["images"]] == [0, 3]
    assert [network["variant"] for network in data["networks"]] == ["original (conv)", "mine"]
    text = PdfReader(directory / "pictures" / "p.pdf").pages[0].extract_text()
    for network in data["networks"]:
        for seen in network["predictions"]:
            assert f"{seen['predicted']} ({100 * seen['probability']:.0f} %)" in text
    shutil.rmtree(directory / "pictures")  # other tests look at what is there


def test_the_parent_needs_neither_torch_nor_matplotlib() -> None:
    modules = "pfstudy.cli, pfstudy.launch.explain, pfstudy.figures.explanation"
    program = f"import sys, {modules}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"torch", "matplotlib", "pytorch_grad_cam"} & set(done.stdout.split())
