"""One page that shows a study: the table, plots that are linked with it, the audit.

Nothing is loaded from elsewhere: styles, scripts (Vega, by vl-convert) and data are in the page,
and its content security policy allows these by their digests and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from pfstudy import files
from pfstudy.environment import package_version
from pfstudy.errors import PfstudyError
from pfstudy.report.data import page_curves, page_data
from pfstudy.report.parts import audit_part, effects_part, facts, results_table
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.comparison import VERDICTS
from pfstudy.tables.audit import Audit
from pfstudy.tables.content import Content
from pfstudy.tables.effects import JudgedEffects
from pfstudy.tables.judging import in_points
from pfstudy.tables.statistics import POPULATIONS
from pfstudy.variant import flatten
from pfstudy.words import counted, name_some

_HERE = Path(__file__).parent
_SCRIPTS = ("table.js", "plots.js", "detail.js", "page.js")
_MOST_VALUES = 6


def write_page(
    path: Path,
    title: str,
    content: Content,
    audit: Audit,
    *,
    records: Sequence[Mapping[str, Any]],
    curves: pd.DataFrame,
    models: Sequence[JudgedEffects] = (),
    sources: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: Where to; its directory is made.
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
    if path.is_dir():
        raise PfstudyError(f"{path} is a directory; give the page a name in it.")
    style = (_HERE / "page.css").read_text()
    script = "\n".join((_HERE / name).read_text() for name in _SCRIPTS)
    parts = {
        "policy": _policy(style, library(), script),
        "title": escape(title),
        "question": escape(_question(content, records)),
        "summary": _summary(content),
        "asked": facts(_asked(content, records, sources)),
        "table": results_table(content, f"Results of {counted(len(content.lines), 'variant')}"),
        "notes": escape(content.caption),
        "effects": effects_part(models, content.rows.frame["family"].nunique()),
        "audit": audit_part(audit),
        "environment": facts(_environment(records)),
        "footer": escape(f"Made by pfstudy {package_version('pfstudy')}."),
        "style": style,
        "script": script,
        "library": library(),
        "data": _as_script(page_data(content, records)),
        "curves": _as_script(page_curves(content, curves)),
    }
    template = (_HERE / "page.html").read_text()
    # in one pass: what is put in may look like a place itself
    files.write_text(path, re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], template))


@cache
def library() -> str:
    """Vega, as a script that sets ``vegaEmbed``; vl-convert takes two seconds to bundle it."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def _policy(style: str, *scripts: str) -> str:
    """No connection, and only the scripts and the styles of the page, by their digests."""

    def digests(*texts: str) -> str:
        found = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in found)

    return (
        f"default-src 'none'; script-src {digests(*scripts)}; style-src {digests(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _question(content: Content, records: Sequence[Mapping[str, Any]]) -> str:
    operations = _operations(records)
    if not operations:
        return "How accurate is it, and what does it cost?"
    models = _listed(content.rows.frame["model"])
    originals = _listed(record["variant"].get("original") for record in records) or "original"
    return (
        "What happens to accuracy and cost when "
        f"{originals} layers of {models} become {', '.join(operations)}?"
    )


def _summary(content: Content) -> str:
    frame = content.rows.frame
    runs = int(frame["num_seeds"].sum())
    numbers = (
        f"{counted(len(frame), 'variant')}, {counted(runs, 'run')} on {_listed(frame['data'])}"
    )
    parts = [f"<span>{escape(numbers)}</span>"]
    verdicts = frame["verdict"].value_counts()
    for verdict in VERDICTS:
        if verdict in verdicts:
            kind = verdict.replace(" ", "-")
            parts.append(f'<span class="verdict {kind}">{verdicts[verdict]} {verdict}</span>')
    return "\n".join(parts)


def _asked(
    content: Content, records: Sequence[Mapping[str, Any]], sources: Sequence[str]
) -> dict[str, str]:
    criteria = content.rows.criteria
    recipes: dict[str, list[Any]] = {}
    for record in records:
        for key, value in flatten(record["identity"]["canonical"].get("recipe", {})).items():
            recipes.setdefault(key, []).append(value)
    settings = "; ".join(f"{key} {_listed(values)}" for key, values in recipes.items())
    return {
        "backbones": _listed(r["variant"]["model"] for r in records),
        "operations": ", ".join(_operations(records)),
        "compared with": criteria.baseline or "the unsubstituted backbone",
        "margin": in_points(criteria.margin) if criteria.margin else "",
        "population": "; or ".join(
            about
            for population, about in POPULATIONS.items()
            if (content.rows.frame["population"] == population).any()
        ),
        "data": _listed(r["data"] for r in records),
        "recipe": f"{_listed(r['recipe'] for r in records)} ({settings})",
        "seeds": _listed(sorted({r["seed"] for r in records})),
        "runs from": ", ".join(sources),
    }


def _operations(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was put in place of the backbone's own layers."""
    found = dict.fromkeys(
        operation for r in records for operation in r["variant"].get("operations", {}).values()
    )
    return [operation for operation in found if operation != ORIGINAL]


def _environment(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = [record.get("environment") or {} for record in records]
    names = dict.fromkeys(name for e in found for name in e.get("versions", {}))
    commits = [e["git"]["commit"][:10] + (" (modified)" if e["git"]["dirty"] else "")
               for e in found if e.get("git")]  # fmt: skip
    return {
        "hosts": _listed(e.get("host") for e in found),
        "processors": _listed(e.get("cpu_model") for e in found),
        "devices": _listed(e.get("device") for e in found),
        "commits": _listed(commits),
        "Python": _listed(e.get("python") for e in found),
        **{name: _listed(e.get("versions", {}).get(name) for e in found) for name in names},
    }


def _listed(values: Iterable[Any]) -> str:
    """The different values; of many, the first and how many more."""
    known = list(dict.fromkeys(str(value) for value in values if value not in (None, "")))
    return name_some(known, _MOST_VALUES)


def _as_script(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c")
