"""A report and a workspace on W&B: the table, scatter plots, what stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.tracking.failures import be_patient, explain_failure, require_login
from pfstudy.tracking.reading import IDENTITY_KEY

_X = {"latency_ms": "latency (ms)", "macs": "MACs", "params": "params"}
_Y = "test_top1_percent"


@dataclass(frozen=True)
class Dashboard:
    """What is shown on W&B.

    Attributes:
        title: Of the report.
        study: Whose runs are shown; ``None`` for all of the project.
        table: The table as Markdown, with its caption.
        remarks: Sentences that stand above it.
        settings: Keys of the canonical form that vary, such as ``recipe.lr``.
        places: Addresses of the sites, such as ``stage1.block1``.
    """

    title: str
    study: str | None
    table: str
    remarks: Sequence[str]
    settings: Sequence[str]
    places: Sequence[str]


def write_dashboard(project: str, dashboard: Dashboard) -> tuple[str, str]:
    """Write a report and a workspace.

    Args:
        project: ``ENTITY/PROJECT``.
        dashboard: What they show.

    Returns:
        Their addresses.

    Raises:
        PfstudyError: wandb-workspaces is not installed, nobody is logged in, or W&B refuses.
    """
    entity, _, name = project.partition("/")
    if not (entity and name) or "/" in name:
        raise PfstudyError(f"--wandb takes ENTITY/PROJECT, but got {project!r}.")
    if find_spec("wandb_workspaces") is None:
        raise PfstudyError("wandb-workspaces is not installed: pip install 'pfstudy[dashboard]'.")
    if "'" in (dashboard.study or ""):
        raise PfstudyError(
            f"wandb-workspaces cannot filter by a study with an apostrophe, {dashboard.study}."
        )
    be_patient()
    what = f"the report cannot be written to {project}"
    require_login(what)
    try:
        report = _report(entity, name, dashboard)
        report.save()
        workspace = _workspace(entity, name, dashboard)
        workspace.save()
        return str(report.url), str(workspace.url)
    except Exception as error:  # whatever its layers raise
        raise explain_failure(what, error) from None


def _report(entity: str, project: str, dashboard: Dashboard) -> Any:
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(
        entity=entity,
        project=project,
        name=dashboard.study or "runs",
        filters=_of_study(dashboard),
        groupby=["config.label"],
    )
    blocks: list[Any] = [wr.TableOfContents(), wr.H1("Results")]
    blocks += [wr.P(remark) for remark in dashboard.remarks]
    blocks += [
        wr.MarkdownBlock(dashboard.table),
        wr.H1("Accuracy against cost"),
        wr.PanelGrid(runsets=[runs], panels=_panels(dashboard)),
    ]
    return wr.Report(
        entity=entity,
        project=project,
        title=dashboard.title,
        description="Written by pfstudy.",
        blocks=blocks,
    )


def _workspace(entity: str, project: str, dashboard: Dashboard) -> Any:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    curves = [wr.LinePlot(x="epoch", y=[key]) for key in ("val_top1_percent", "train_loss")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=dashboard.title,
        sections=[
            ws.Section(name="Accuracy against cost", panels=_panels(dashboard), is_open=True),
            ws.Section(name="Learning curves", panels=curves, is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            filters=_of_study(dashboard), groupby=[ws.Config("label")]
        ),
    )


def _of_study(dashboard: Dashboard) -> list[Any]:
    """Filters that leave the runs of the study."""
    import wandb_workspaces.expr as expr

    return [expr.Metric("Group") == dashboard.study] if dashboard.study else []


def _panels(dashboard: Dashboard) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    scatters = [
        wr.ScatterPlot(
            title=f"top-1 against {label}", x=wr.SummaryMetric(key), y=wr.SummaryMetric(_Y)
        )
        for key, label in _X.items()
    ]
    keys = {place: f"operations.{place}" for place in dashboard.places}
    keys |= {key: f"{IDENTITY_KEY}.canonical.{key}" for key in dashboard.settings}
    columns = [
        *(wr.ParallelCoordinatesPlotColumn(wr.Config(key), name) for name, key in keys.items()),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("latency_ms"), "latency (ms)"),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(_Y), "test top-1 (%)"),
    ]
    below = wr.Layout(x=0, y=6, w=24, h=8)
    stands = wr.ParallelCoordinatesPlot(title="what stands where", columns=columns, layout=below)
    return [*scatters, stands]
