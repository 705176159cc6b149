from collections.abc import Callable

import pytest

from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config
from pfstudy.space import Space, make_space
from pfstudy.variant import make_variant

Make = Callable[..., Config]


@pytest.fixture
def space(make_config: Make) -> Callable[..., Space]:
    def make(*overrides: str) -> Space:
        return make_space(make_config("search=darts", *overrides))

    return make


class TestSharing:
    @pytest.mark.parametrize(
        ("sharing", "groups", "group_of"),
        [
            (
                "individual",
                ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2"),
                (0, 1, 2, 3),
            ),
            ("stage", ("stage1", "stage2"), (0, 0, 1, 1)),
            ("unified", ("everywhere",), (0, 0, 0, 0)),
        ],
    )
    def test_groups(
        self,
        sharing: str,
        groups: tuple[str, ...],
        group_of: tuple[int, ...],
        space: Callable[..., Space],
    ) -> None:
        found = space(f"search.sharing={sharing}")
        assert (found.groups, found.group_of) == (groups, group_of)


class TestPlace:
    def test_a_choice_is_a_config_that_keeps_the_norm(self, space: Callable[..., Space]) -> None:
        found = space("search.operations=[conv,maxpool]").place((0, 1, 1, 0))
        assert [(site.operation, site.norm_act) for site in found.sites] == [
            ("conv", "keep"),
            ("maxpool", "keep"),
            ("maxpool", "keep"),
            ("conv", "keep"),
        ]
        assert found.search is None
        label = make_variant(found, fingerprint(found.data)).label
        assert label == "stage1.block2=maxpool+norm, stage2.block1=maxpool+norm"

    def test_what_is_given_stays(self, space: Callable[..., Space]) -> None:
        found = space("block.stage1.spatial=shift")
        assert found.sites == ("stage2.block1", "stage2.block2")
        sites = found.place((2, 2)).sites
        assert [site.operation for site in sites] == ["shift", "shift", "maxpool", "maxpool"]
        assert sites[0].norm_act == "auto"

    @pytest.mark.parametrize("choice", [(0, 0, 0, 0), (1, 2, 3, 4), (4, 4, 4, 4)])
    def test_and_back(self, choice: tuple[int, ...], space: Callable[..., Space]) -> None:
        found = space()
        variant = make_variant(found.place(choice), "none")
        assert found.choice_of(variant.operations) == choice

    def test_networks_of_another_space_are_none_of_it(self, space: Callable[..., Space]) -> None:
        found = space("search.operations=[conv,maxpool]")
        with_norm = dict.fromkeys(found.sites, "maxpool+norm")
        assert found.choice_of(with_norm) == (1, 1, 1, 1)
        assert found.choice_of({**with_norm, "stage1.block1": "maxpool"}) is None
        assert found.choice_of({**with_norm, "stage1.block1": "shift+norm"}) is None
        assert found.choice_of({"stage1.block1": "original"}) is None


class TestBadInput:
    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            (["search.operations=[conv,maxpol]"], "'maxpol' does not exist.*Did you mean"),
            (["search.operations=[conv,conv]"], "lists conv twice"),
            (["search.operations=[original,conv]"], "original and conv, which are the same at all"),
            (["search.collapse_operations=[skip]"], "collapse_operations: operation 'skip' does"),
            (["block.spatial=maxpool"], "nothing is left to search"),
            (["init_from=weights.safetensors"], "leave out init_from"),
            (
                ["model=swin_t", "data=synthetic", "search.operations=[attention,maxpool_mlp]"],
                "stage1.block1: attention has no mixture form: .* leave attention out",
            ),
        ],
    )
    def test_is_one_sentence(
        self, overrides: list[str], sentence: str, space: Callable[..., Space]
    ) -> None:
        with pytest.raises(PfstudyError, match=sentence):
            space(*overrides)

    def test_windows_can_be_left_altogether(self, space: Callable[..., Space]) -> None:
        operations = "search.operations=[avgpool_mlp,maxpool_mlp]"
        assert len(space("model=swin_t", "data=synthetic", operations).sites) == 12

    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            ("search.operations=[conv]", "search.operations: .* at least 2"),
            ("search.order=3", "search.order: "),
            ("search.arch_share=1", "search.arch_share: input should be less than 1"),
            ("search.sharing=none", "search.sharing: "),
            ("search.final_temperature=inf", "search.final_temperature: .* finite"),
        ],
    )
    def test_settings_out_of_range(
        self, override: str, sentence: str, space: Callable[..., Space]
    ) -> None:
        with pytest.raises(PfstudyError, match=sentence):
            space(override)
