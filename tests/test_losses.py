from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from configs import plain_recipe
from pfstudy.errors import PfstudyError
from pfstudy.losses import Objective, check_objective
from pfstudy.schema.recipe import Augmentation, Recipe

NUM_CLASSES = 5
RECIPE = plain_recipe(epochs=1, batch_size=8, weight_decay=0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 3, 6, 6), torch.arange(8) % NUM_CLASSES


def network(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :NUM_CLASSES]


def augmented(**settings: object) -> Recipe:
    return replace(RECIPE, augmentation=Augmentation(**settings))


class TestMixing:
    @pytest.mark.parametrize("name", ["mixup", "cutmix"])
    def test_targets_are_mixed_as_images_are(self, name: str) -> None:
        images, labels = batch()
        whole = images.clone()
        mixed, targets = Objective(augmented(**{name: 1.0}), NUM_CLASSES).prepare((images, labels))
        first = functional.one_hot(labels, NUM_CLASSES).float()
        other = first.flip(0)
        differs = labels != labels.flip(0)
        share = (targets * first).sum(1)[differs]
        assert share.std() < 1e-6
        assert 0 < share[0] < 1
        torch.testing.assert_close(targets, share[0] * first + (1 - share[0]) * other)
        if name == "mixup":
            expected = share[0] * whole + (1 - share[0]) * whole.flip(0)
            torch.testing.assert_close(mixed, expected)
        else:
            is_own = (mixed == whole).float().mean()
            assert is_own == pytest.approx(float(share[0]), abs=1e-6)

    def test_is_done_as_often_as_asked(self) -> None:
        objective = Objective(augmented(mixup=1.0, mixup_probability=0.5), NUM_CLASSES)
        mixed = 0
        for _ in range(200):
            images, labels = batch()
            whole = images.clone()
            mixed += not torch.equal(objective.prepare((images, labels))[0], whole)
        assert 70 < mixed < 130

    def test_smoothing_is_part_of_mixed_targets_and_not_done_twice(self) -> None:
        recipe = replace(augmented(mixup=1.0), label_smoothing=0.1)
        images, labels = batch()
        objective = Objective(recipe, NUM_CLASSES)
        _, targets = objective.prepare((images, labels))
        assert float(targets.min()) == pytest.approx(0.1 / NUM_CLASSES)
        logits = torch.randn(8, NUM_CLASSES)
        expected = -(targets * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(objective.of_targets(logits, targets), expected)

    def test_an_odd_number_of_images_is_refused(self) -> None:
        with pytest.raises(PfstudyError, match="a device takes 3 images"):
            check_objective(augmented(cutmix=1.0), 3)


def test_erasing_makes_rectangles_noise_in_as_many_images_as_asked() -> None:
    objective = Objective(augmented(random_erasing=0.5), NUM_CLASSES)
    images = torch.full((400, 3, 16, 16), 9.0)
    erased, _ = objective.prepare((images, torch.zeros(400, dtype=torch.int64)))
    is_noise_NHW = (erased != 9).all(1)
    touched = is_noise_NHW.flatten(1).any(1)
    assert 160 < int(touched.sum()) < 240
    for image in is_noise_NHW[touched][:20]:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert int(image.sum()) == int(area)


class TestBinaryCrossEntropy:
    RECIPE = replace(RECIPE, loss="binary_cross_entropy")

    def test_is_that_of_every_class_for_itself(self) -> None:
        logits, (_, labels) = torch.randn(8, NUM_CLASSES), batch()
        hot = functional.one_hot(labels, NUM_CLASSES).float()
        p = logits.sigmoid()
        expected = -(hot * p.log() + (1 - hot) * (1 - p).log()).mean()
        loss = Objective(self.RECIPE, NUM_CLASSES).of_targets(logits, labels)
        torch.testing.assert_close(loss, expected)

    def test_both_classes_of_a_mixed_image_count_fully(self) -> None:
        targets = torch.tensor([[0.7, 0.3, 0, 0, 0], [0.9, 0.1, 0, 0, 0]])
        logits = torch.randn(2, NUM_CLASSES)
        full = torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
        expected = functional.binary_cross_entropy_with_logits(logits, full)
        loss = Objective(self.RECIPE, NUM_CLASSES).of_targets(logits, targets)
        torch.testing.assert_close(loss, expected)


class TestTeacher:
    def test_soft_is_the_divergence_of_softened_answers(self) -> None:
        recipe = replace(RECIPE, teacher="x", distillation_temperature=2.0)
        logits, taught = torch.randn(2, 8, NUM_CLASSES).unbind()
        student, teacher = (logits / 2).softmax(1), (taught / 2).softmax(1)
        expected = 4 * (teacher * (teacher / student).log()).sum(1).mean()
        torch.testing.assert_close(
            Objective(recipe, NUM_CLASSES).of_teacher(logits, taught), expected
        )

    def test_hard_is_the_cross_entropy_with_its_answer(self) -> None:
        recipe = replace(RECIPE, teacher="x", distillation="hard")
        logits, taught = torch.randn(2, 8, NUM_CLASSES).unbind()
        expected = functional.cross_entropy(logits, taught.argmax(1))
        torch.testing.assert_close(
            Objective(recipe, NUM_CLASSES).of_teacher(logits, taught), expected
        )

    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
    def test_has_its_share_in_the_loss(self, weight: float) -> None:
        recipe = replace(RECIPE, teacher="x", distillation_weight=weight)
        objective = Objective(recipe, NUM_CLASSES, teacher=lambda images: 3 * network(images))
        images, labels = batch()
        logits = network(images)
        own = functional.cross_entropy(logits, labels)
        expected = (1 - weight) * own + weight * objective.of_teacher(logits, 3 * logits)
        torch.testing.assert_close(objective.loss(network, (images, labels)), expected)
