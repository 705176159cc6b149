from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pfstudy import searches
from pfstudy.errors import PfstudyError
from pfstudy.files import write_json
from pfstudy.schema.config import Config
from pfstudy.searches import Asked, Evaluation, Times
from pfstudy.space import Space, make_space

Make = Callable[..., Config]
TIMES = Times(((0.2, 0.1),) * 4, 0.2, {"device": "Some CPU"}, 0.05)


@pytest.fixture
def space(make_config: Make) -> Space:
    return make_space(make_config("search=evolution", "search.operations=[conv,maxpool]"))


def asked_of(space: Space, times: Times | None = TIMES) -> Asked:
    return Asked(space, times, searches.identify(space, {"data": "digits"}, times))


class TestIdentity:
    def test_is_not_the_name(self, space: Space) -> None:
        named = replace(space, search=replace(space.search, name="mine"))
        assert asked_of(named).identity == asked_of(space).identity

    def test_is_settings_seed_times_and_sites(self, space: Space) -> None:
        others = [
            replace(space, search=replace(space.search, epochs=1)),
            replace(space, config=replace(space.config, seed=1)),
            replace(space, sites=space.sites[1:]),
        ]
        hashes = {asked_of(each).identity["hash"] for each in [space, *others]}
        hashes.add(asked_of(space, None).identity["hash"])
        assert len(hashes) == 5

    def test_is_where_times_are_from_and_not_their_noise(self, space: Space) -> None:
        again = replace(TIMES, rest=0.21)
        elsewhere = replace(TIMES, setting={"device": "Another CPU"})
        assert asked_of(space, again).identity == asked_of(space).identity
        assert asked_of(space, elsewhere).identity != asked_of(space).identity


class TestDirectory:
    def test_is_read_as_it_was_written(self, space: Space, tmp_path: Path) -> None:
        searches.write_asked(tmp_path, asked_of(space))
        found = searches.read_asked(tmp_path)
        assert found.times == TIMES
        assert found.space.search == space.search
        assert found.identity["hash"] == asked_of(space).identity["hash"]

    def test_another_search_of_that_name_is_refused(self, space: Space, tmp_path: Path) -> None:
        searches.check_asked(tmp_path, asked_of(space))
        searches.write_asked(tmp_path, asked_of(space))
        searches.check_asked(tmp_path, asked_of(space))
        with pytest.raises(PfstudyError, match=r"another search, and stays as it is"):
            searches.check_asked(tmp_path, asked_of(space, None))

    def test_unknown_and_unfinished_ones(self, space: Space, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match="search 'mine' does not exist; choose from: none"):
            searches.read_search(tmp_path, "mine")
        directory = searches.search_directory(tmp_path, "mine")
        searches.write_asked(directory, asked_of(space))
        with pytest.raises(PfstudyError, match="the search mine has not ended; the same command"):
            searches.read_search(tmp_path, "mine")
        assert searches.list_searches(tmp_path) == []
        write_json(directory / "record.json", {"schema_version": 1})
        assert searches.list_searches(tmp_path) == ["mine"]


class TestEvaluations:
    def test_survive_a_torn_line(self, space: Space, tmp_path: Path) -> None:
        done = [
            Evaluation((0, 1, 0, 1), 97.33, "search", 0.5),
            Evaluation((1, 1, 1, 1), 12.0, "report"),
        ]
        assert searches.read_evaluations(tmp_path, space) == []
        searches.write_evaluations(tmp_path, space, done)
        assert searches.read_evaluations(tmp_path, space) == done
        path = tmp_path / searches.EVALUATIONS
        path.write_text(path.read_text() + "search,98.0,0.1,conv")
        assert searches.read_evaluations(tmp_path, space) == done


def test_times_add_up() -> None:
    assert TIMES.predict((0, 0, 1, 1)) == pytest.approx(0.8)
