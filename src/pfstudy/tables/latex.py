r"""Content in, a LaTeX ``table`` out: booktabs, multirow, siunitx."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pfstudy.tables.columns import Column
from pfstudy.tables.content import Cell, Content
from pfstudy.tables.marks import FELL_BACK, OUTDATED

PACKAGES = ("adjustbox", "booktabs", "multirow", "siunitx")
"""What a document that takes the table in must load."""

_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        FELL_BACK: r"\textdagger{}",
        OUTDATED: r"\textdaggerdbl{}",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)
_NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?")
_UNIT = re.compile(r"(.+) (\([^()]+\))")
_MISSING = "--"
_MOST_IN_A_COLUMN = 6
_IN_SHORT = {  # text that would make a column wide; the caption explains it
    "front": {"yes": r"$\star$", "perhaps": r"$\circ$", "no": ""},
}
_EXPLAINED = {
    "front": r"$\star$: on the front; $\circ$: perhaps.",
}


def latex(content: Content) -> str:
    r"""A ``table`` with the provenance of its figures in comments.

    Numbers are aligned at their decimal point by siunitx; the best of a column is bold where the
    difference is real. A table of many columns spans both columns of the page; what is still
    wider than that is scaled down.
    """
    by_column = zip(content.columns, zip(*content.lines, strict=True), strict=True)
    kinds = [_kind(column, cells) for column, cells in by_column]
    body = []
    for number, line in enumerate(content.lines):
        cells = []
        for index, (column, cell) in enumerate(zip(content.columns, line, strict=True)):
            text = _cell(column, cell, is_number=kinds[index].startswith("S"))
            if index < content.num_groups and content.spans[index][number] > 1:
                text = rf"\multirow{{{content.spans[index][number]}}}{{*}}{{{text}}}"
            cells.append(text if content.begins(index, number) else "")
        if number and content.num_groups and content.begins(0, number):
            body.append(r"\midrule")
        body.append(" & ".join(cells) + r" \\")
    environment = "table*" if len(content.columns) > _MOST_IN_A_COLUMN else "table"
    lines = [
        *(f"% {line}" for line in content.provenance),
        rf"\begin{{{environment}}}[tbp]",
        r"\centering",
        rf"\caption{{{_caption(content)}}}",
        *([rf"\label{{tab:{_label(content.name)}}}"] if content.name else []),
        r"\sisetup{detect-weight, separate-uncertainty, table-align-uncertainty=false,",
        r"  retain-explicit-plus, group-minimum-digits=12}",
        r"\setlength{\belowcaptionskip}{4pt}",
        r"\setlength{\tabcolsep}{4pt}",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{' '.join(kinds)}}}",
        r"\toprule",
        *_header(content.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        rf"\end{{{environment}}}",
    ]
    return rf"% needs \usepackage{{{','.join(PACKAGES)}}}" + "\n" + "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape what LaTeX takes for commands."""
    return text.translate(_ESCAPED)


def _caption(content: Content) -> str:
    shown = {column.key for column in content.columns}
    text = escape(content.caption.replace("; see pfstudy audit", "")).replace(r" \%", r"~\%")
    return " ".join([text, *(_EXPLAINED[key] for key in _EXPLAINED if key in shown)])


def _label(name: str) -> str:
    """The key that the table is referred to by."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _header(columns: Sequence[Column]) -> list[str]:
    """Names, and units below; above them a line of groups where columns side by side are of one."""
    runs: list[tuple[str, list[Column]]] = []
    for column in columns:
        if runs and column.group and runs[-1][0] == column.group:
            runs[-1][1].append(column)
        else:
            runs.append((column.group, [column]))
    grouped = [bool(group) and len(members) > 1 for group, members in runs]
    low = _names(
        [
            (column.short or column.label) if is_group else column.label
            for (_, members), is_group in zip(runs, grouped, strict=True)
            for column in members
        ]
    )
    if not any(grouped):
        return low
    high, rules, place = [], [], 1
    for (group, members), is_group in zip(runs, grouped, strict=True):
        end = place + len(members) - 1
        if is_group:
            high.append(rf"\multicolumn{{{len(members)}}}{{c}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{end}}}")
        else:
            high += [""] * len(members)
        place = end + 1
    return [" & ".join(high) + r" \\", " ".join(rules), *low]


def _names(labels: Sequence[str]) -> list[str]:
    """Labels, with their units in a line of their own: a column is as wide as its figures."""
    split = [_UNIT.fullmatch(label) for label in labels]
    parts = [
        found.groups() if found else (label, "") for label, found in zip(labels, split, strict=True)
    ]
    lines = zip(*parts, strict=True)
    written = [[f"{{{escape(text)}}}" if text else "" for text in line] for line in lines]
    return [" & ".join(line) + r" \\" for line in written if any(line)]


def _kind(column: Column, cells: Sequence[Cell]) -> str:
    """Type of a column: of numbers, with the room that they need."""
    if column.is_text:
        return "l"
    if column.joined == "interval" or not all(_NUMBER.fullmatch(c.first) for c in cells if c.first):
        return "r"
    found = [_NUMBER.fullmatch(cell.first) for cell in cells if cell.first]
    parts = [match.groups() for match in found if match]
    if not parts:
        return "r"
    sign = "+" if any(sign for sign, _, _ in parts) else ""
    whole = max(len(number) for _, number, _ in parts)
    decimals = max(len(fraction or "") for _, _, fraction in parts)
    seconds = [cell.second.replace(".", "").lstrip("0") for cell in cells if cell.second]
    spread = f"({max(map(len, seconds)) or 1})" if seconds else ""
    return rf"S[table-format={sign}{whole}.{decimals}{spread}]"


def _cell(column: Column, cell: Cell, *, is_number: bool) -> str:
    if not cell.first:
        return "" if column.is_text else f"{{{_MISSING}{escape(cell.mark)}}}"
    if column.joined == "interval":
        return rf"{{[${cell.first}$, ${cell.second}$]}}"
    if column.is_text:
        return _IN_SHORT.get(column.key, {}).get(cell.first, escape(cell.first))
    if not is_number:
        return escape(cell.first + cell.mark)
    if cell.second and not float(cell.second):  # siunitx would leave it out
        return rf"{{${cell.first} \pm {cell.second}$}}"
    text = cell.first + (f" +- {cell.second}" if cell.second else "")
    text = rf"\bfseries {text}" if cell.is_best else text
    # the mark hangs into the margin of the column, so that the figures stay aligned
    return text + (rf"{{\rlap{{\textsuperscript{{{escape(cell.mark)}}}}}}}" if cell.mark else "")
