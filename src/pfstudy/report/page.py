"""One page that shows a study: the table, plots that are linked with it, the audit.

Nothing is loaded from elsewhere: styles, scripts (Vega, by vl-convert) and data are in the page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from pfstudy import __version__, files
from pfstudy.figures import charts
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.effects import Additive
from pfstudy.tables.audit import Audit
from pfstudy.tables.columns import BY_KEY, Column
from pfstudy.tables.content import Content
from pfstudy.tables.render import audit_sentence, plain_cell
from pfstudy.variant import flatten

_HERE = Path(__file__).parent
_MOST_CURVES = 60_000


def write_page(
    path: Path,
    title: str,
    content: Content,
    audit: Audit,
    *,
    records: Sequence[Mapping[str, Any]],
    curves: pd.DataFrame,
    models: Sequence[Additive] = (),
    sources: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: Where to.
        title: Of the study.
        content: The table.
        audit: What the runs do not share.
        records: Those that the table was made of.
        curves: As `pfstudy.figures.curves.read_curves` gives them; may be empty.
        models: Additive models whose effects are shown.
        sources: Where the records come from.

    Raises:
        PfstudyError: It cannot be written.
    """
    import vl_convert

    parts = {
        "title": escape(title),
        "summary": escape(_summary(content)),
        "asked": _facts(_asked(records, sources)),
        "caption": escape(content.caption),
        "effects": _effects(models),
        "audit": _audit(audit),
        "environment": _facts(_environment(records)),
        "footer": escape(f"Made by pfstudy {__version__}."),
        "style": (_HERE / "page.css").read_text(),
        "script": (_HERE / "page.js").read_text(),
        "library": vl_convert.javascript_bundle(_LIBRARY),
        "data": _as_script(_data(content, records, curves, models)),
    }
    template = (_HERE / "page.html").read_text()
    # in one pass: what is put in may look like a place itself
    files.write_text(path, re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], template))


_LIBRARY = "window.vegaEmbed = vegaEmbed;"


def _data(
    content: Content,
    records: Sequence[Mapping[str, Any]],
    curves: pd.DataFrame,
    models: Sequence[Additive],
) -> dict[str, Any]:
    frame = content.rows.frame
    costs = [key for key in charts.COSTS if frame[key].notna().any()]
    forms = {r["identity"]["hash"]: flatten(r["identity"]["canonical"]) for r in records}
    rows = [
        _row(content.columns, line, row, forms)
        for line, row in zip(content.lines, content.ordered.to_dict("records"), strict=True)
    ]
    return {
        "original": ORIGINAL,
        "columns": [{"key": c.key, "label": c.label, "text": c.is_text} for c in content.columns],
        "rows": rows,
        "costs": [[key, BY_KEY[key].label] for key in costs],
        "scatters": {key: charts.linked_scatter(content.rows, key) for key in costs},
        "curve": charts.linked_curves(),
        "curves": _curves(content, curves),
        "effects": {
            f"effects-{model.level}": charts.effect_map(model).to_dict() for model in models
        },
    }


def _row(
    columns: Sequence[Column],
    line: Sequence[Any],
    row: Mapping[str, Any],
    forms: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    cells = [plain_cell(c, cell, " ± ") for c, cell in zip(columns, line, strict=True)]
    name = f"{row['model']}: {row['variant']}"
    ours, theirs = forms.get(row["hash"], {}), forms.get(row["family"], {})
    keys = [k for k in {**theirs, **ours} if ours.get(k) != theirs.get(k)]
    return {
        "hash": row["hash"],
        "family": row["family"],
        "name": name,
        "text": " ".join([name, *cells]).lower(),
        "cells": cells,
        "best": [cell.is_best for cell in line],
        "values": {column.key: _plain(row[column.key]) for column in columns},
        "operations": row["operations"],
        "difference": [[key, _text(ours.get(key)), _text(theirs.get(key))] for key in keys],
    }


def _curves(content: Content, curves: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    if curves.empty:
        return {}
    step = max(1, math.ceil(len(curves) / _MOST_CURVES))
    labels = content.rows.frame.set_index("hash")["label"].to_dict()
    found: dict[str, list[dict[str, Any]]] = {}
    for name, curve in curves[curves["epoch"] % step == 0].groupby("hash", sort=False):
        found[str(name)] = [
            {"label": labels[name], "seed": int(s), "epoch": int(e), "top1": round(float(v), 3)}
            for s, e, v in zip(
                curve["seed"], curve["epoch"], curve["val_top1_percent"], strict=True
            )
        ]
    return found


def _summary(content: Content) -> str:
    frame = content.rows.frame
    runs = int(frame["num_seeds"].sum())
    verdicts = frame["verdict"].value_counts()
    parts = [f"{len(frame)} variants, {runs} runs on {', '.join(frame['data'].unique())}."]
    for verdict in ("better", "worse", "not distinguishable"):
        if verdict in verdicts:
            parts.append(f"{verdicts[verdict]} {verdict}.")
    return " ".join(parts)


def _asked(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> dict[str, str]:
    first = records[0]
    recipe = first["identity"]["canonical"].get("recipe", {})
    return {
        "backbones": _listed(r["variant"]["model"] for r in records),
        "operations": _listed(
            operation for r in records for operation in r["variant"].get("operations", {}).values()
        ),
        "data": _listed(r["data"] for r in records),
        "recipe": f"{_listed(r['recipe'] for r in records)} "
        f"({', '.join(f'{key} {value}' for key, value in recipe.items())})",
        "seeds": _listed(str(r["seed"]) for r in records),
        "from": ", ".join(sources),
    }


def _environment(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = [record["environment"] for record in records]
    versions: dict[str, set[str]] = {}
    for environment in found:
        for name, version in environment.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
    commits = [e["git"]["commit"][:10] + (" (modified)" if e["git"]["dirty"] else "")
               for e in found if e.get("git")]  # fmt: skip
    return {
        "hosts": _listed(e.get("host") for e in found),
        "processors": _listed(e.get("cpu_model") for e in found),
        "devices": _listed(e.get("device") for e in found),
        "commits": _listed(commits),
        **{name: ", ".join(sorted(each)) for name, each in versions.items()},
    }


def _effects(models: Sequence[Additive]) -> str:
    if not models:
        return ""
    parts = [
        '<section aria-labelledby="effects-heading">',
        '<h2 id="effects-heading">What each place contributes</h2>',
    ]
    for model in models:
        parts.append(f"<p>{escape(describe_model(model))}</p>")
        listed = "; ".join(f"{e.place} {e.operation} {e.points:+.2f}" for e in model.effects)
        label = escape(f"Effects in points: {listed}")
        parts.append(
            f'<div class="chart" id="effects-{model.level}" role="img" aria-label="{label}"></div>'
        )
    return "\n".join([*parts, "</section>"])


def describe_model(model: Additive) -> str:
    """Say what an additive model tells apart, and how well it holds."""
    each = {"block": "every block", "stage": "every stage", "operation": "every operation"}
    parts = [
        f"Additive model with an effect of {each[model.level]}: explains {100 * model.r2:.0f} % "
        "of the variance between variants."
    ]
    if model.r2_held_out is None:
        parts.append("There are too few combinations of effects to judge it by.")
    else:
        parts.append(
            f"{model.num_combinations} combinations, each predicted from all other variants: "
            f"{100 * max(0.0, model.r2_held_out):.0f} % of their variance, off by "
            f"{model.error_held_out:.2f} points (root mean square)."
        )
    return " ".join(parts)


def _audit(audit: Audit) -> str:
    parts = [f"<p>{escape(audit_sentence(audit))}</p>"]
    if audit.findings:
        rows = "".join(
            f'<tr><th scope="row">{escape(finding.name)}</th><td>{escape(value.text)}</td>'
            f"<td>{escape(value.runs_in_short())}</td></tr>"
            for finding in audit.findings
            for value in finding.values
        )
        head = "".join(f'<th scope="col">{text}</th>' for text in ("what", "value", "runs"))
        parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
            "</table></div>"
        )
    parts += [f"<p>{escape(remark)}</p>" for remark in audit.remarks]
    return "\n".join(parts)


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )


def _listed(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> Any:
    """What JSON has: no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _as_script(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c")
