from __future__ import annotations

import string

import pytest

from pfstudy.figures.labels import text_width, wrap


@pytest.mark.parametrize("text", ["stage1.block1=maxpool (no norm)", "WWWWWW", string.printable])
def test_widths_are_no_less_than_those_of_the_font(text: str) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    text = "".join(text.split()).replace("$", "")
    font = FontProperties(family=["Liberation Sans", "Arial", "DejaVu Sans"])
    drawn = TextPath((0, 0), text, size=7, prop=font).get_extents().width
    is_wider = "DejaVu" in font.get_name()
    assert text_width(text, 7) >= drawn * (0.85 if is_wider else 1)


def test_lines_break_at_spaces_but_not_inside_a_remark() -> None:
    width = text_width("original, downsample=avgpool (no", 7)
    assert wrap("original, downsample=avgpool (no norm)", width, 7) == [
        "original, downsample=avgpool",
        "(no norm)",
    ]


def test_a_word_longer_than_a_line_breaks_and_is_whole() -> None:
    lines = wrap(50 * "W", 60, 7)
    assert len(lines) > 1
    assert "".join(lines) == 50 * "W"
    assert all(text_width(line, 7) <= 60 for line in lines)
