"""Parts of the page as HTML: the table, facts, effects, the audit. Whatever is data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from pfstudy.stats.effects import Effect
from pfstudy.tables.audit import Audit
from pfstudy.tables.columns import Column, write_points
from pfstudy.tables.content import Cell, Content
from pfstudy.tables.effects import JudgedEffects, describe_model, in_order, write_ends
from pfstudy.tables.judging import NOT_WORSE, margin_sentence, percent
from pfstudy.tables.render import audit_sentence, plain_cell
from pfstudy.tables.statistics import POPULATIONS

_NUM_TINTS = 4
_PLACES = {
    "block": "Each block",
    "stage": "All blocks of a stage",
    "operation": "All blocks of the network",
}


def results_table(content: Content, name: str) -> str:
    """The table; its headers are buttons, which the page's script makes sort.

    Args:
        content: What it shows.
        name: Its caption.
    """
    groups = []
    for group, columns in groupby(content.columns, lambda column: column.group):
        width = len(list(columns))
        scope = ' scope="colgroup"' if group else ""
        tag = "th" if group else "td"
        groups.append(f'<{tag} colspan="{width}"{scope}>{escape(group)}</{tag}>')
    head = "".join(_head(column) for column in content.columns)
    body = "\n".join(
        f'<tr data-row="{row}">{"".join(map(_cell, content.columns, line))}</tr>'
        for row, line in enumerate(content.lines)
    )
    above = f'<tr class="groups">{"".join(groups)}</tr>' if len(groups) > 1 else ""
    return (
        '<table id="table" aria-describedby="table-notes">'
        f'<caption class="unseen">{escape(name)}</caption>\n'
        f"<thead>{above}<tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    )


def _head(column: Column) -> str:
    label = column.short or column.label
    kind = "" if column.is_text else ' class="number"'
    return (
        f'<th scope="col" aria-sort="none" data-key="{escape(column.key)}"{kind}>'
        f'<button type="button">{escape(label)}</button></th>'
    )


def _cell(column: Column, cell: Cell) -> str:
    text = escape(plain_cell(column, cell, " ± "))
    if column.key == "variant":
        return f'<th scope="row"><button type="button" class="link">{text}</button></th>'
    if column.key == "verdict" and text:
        return f'<td><span class="verdict {text.replace(" ", "-")}">{text}</span></td>'
    kind = "" if column.is_text else ' class="number"'
    return f"<td{kind}>{f'<strong>{text}</strong>' if cell.is_best else text}</td>"


def facts(known: Mapping[str, str]) -> str:
    """Terms and what they are; those without are left out."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in known.items()
        if text
    )


def audit_part(audit: Audit) -> str:
    """What the runs share, and what they do not."""
    found = [f"<p>{escape(audit_sentence(audit))}</p>"]
    if audit.findings:
        rows = "".join(
            f'<tr><th scope="row">{escape(finding.name)}</th><td>{escape(value.text)}</td>'
            f"<td>{escape(value.runs_in_short())}</td></tr>"
            for finding in audit.findings
            for value in finding.values
        )
        found.append(
            '<div class="scroller" role="region" aria-label="What the runs do not share" '
            'tabindex="0"><table class="plain"><caption>What the runs do not share</caption>'
            f"<thead><tr>{_heads('what', 'value', 'runs')}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )
    found += [f"<p>{escape(remark)}</p>" for remark in audit.remarks]
    return "\n".join(found)


def effects_part(models: Sequence[JudgedEffects], num_families: int) -> str:
    """The effects of every model as a map: a row for each place, a column for each operation.

    Args:
        models: Of the largest family of variants.
        num_families: How many there are.
    """
    if not models:
        return ""
    of_which = " Of the backbone and settings with the most variants." if num_families > 1 else ""
    return "\n".join(
        [
            '<section aria-labelledby="effects-heading">',
            '<h2 id="effects-heading">What each place contributes</h2>',
            "<p>Change of the test accuracy in points when an operation stands at a place. "
            f"{_intervals(models[0])}"
            '<span class="key gain-4">gain</span> <span class="key loss-4">loss</span>'
            f"{of_which}</p>",
            '<div class="maps">',
            *map(_effect_map, models),
            "</div></section>",
        ]
    )


def _intervals(model: JudgedEffects) -> str:
    """What the intervals of effects hold for, and how verdicts are marked."""
    if model.population is None:
        return ""
    margin = f"{margin_sentence(model.margin)} " if model.margin else ""
    return (
        f"Intervals hold at {percent(model.confidence)} for all effects of a map at once, for "
        f"{POPULATIONS[model.population]}. <strong>Bold</strong>: better or worse. {margin}"
    )


def _effect_map(model: JudgedEffects) -> str:
    places = in_order([effect.place for effect in model.effects])
    operations = dict.fromkeys(effect.operation for effect in model.effects)
    found = {(effect.place, effect.operation): effect for effect in model.effects}
    largest = max((abs(effect.points) for effect in model.effects), default=0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(place)}</th>'
        + "".join(_effect(found.get((place, operation)), largest) for operation in operations)
        + "</tr>"
        for place in places
    )
    return (
        f'<div class="scroller map" id="effects-{model.level}" role="region" tabindex="0" '
        f'aria-label="Effects: {_PLACES[model.level].lower()}">'
        f"<table><caption>{_PLACES[model.level]}</caption>"
        f'<thead><tr><th scope="col">place</th>{_heads(*operations)}</tr></thead>'
        f"<tbody>{rows}</tbody></table><p>{escape(describe_model(model))}</p></div>"
    )


def _effect(effect: Effect | None, largest: float) -> str:
    if effect is None:
        return "<td></td>"
    # classes, as the page's policy allows no styles but those of its own sheet
    tint = round(_NUM_TINTS * abs(effect.points) / largest)
    kind = f"{'gain' if effect.points > 0 else 'loss'}-{tint}" if tint else "none"
    text = write_points(effect.points)
    if effect.verdict in ("better", "worse"):
        text = f"<strong>{text}</strong>"
    elif effect.verdict == "not worse":
        text += NOT_WORSE
    return f'<td class="{kind}">{text}{write_ends(effect, " <small>", "</small>")}</td>'


def _heads(*texts: str) -> str:
    return "".join(f'<th scope="col">{escape(text)}</th>' for text in texts)
