"""What the charts share: colours, the title above, the notes below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Okabe and Ito's palette, whose colours most colour-blind readers can tell apart.
YELLOW, SKY, GREEN, BLUE = "#F0E442", "#56B4E9", "#009E73", "#0072B2"
ORANGE, RED, GREY = "#E69F00", "#D55E00", "#999999"
TEXT_GREY = "#444444"
LEGEND = {"fontsize": 9, "frameon": False, "columnspacing": 1.2, "handlelength": 1.2}


def load_pyplot() -> Any:
    """matplotlib.pyplot, drawing to files only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def style_axes(axes: Any, label: str) -> None:
    """A label at the left, horizontal grid lines behind the data, no frame at the top and the right."""
    axes.set_ylabel(label)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish_figure(
    figure: Any,
    path: Path,
    title: str,
    subtitle: str,
    notes: str,
    bottom: float,
    top: float = 0.9,
    right: float = 0.97,
    wspace: float = 0.28,
) -> None:
    """Write title, subtitle and notes around the panels, and the figure to `path`.

    bottom, top: inches between the figure's lower and upper edge and the panels.
    right: the panels' right edge, as a share of the figure's width.
    wspace: the space between two panels, as a share of a panel's width.
    """
    height = figure.get_figheight()
    figure.text(0.5, 1 - 0.36 / height, title, ha="center", fontsize=14, weight="bold")
    figure.text(0.5, 1 - 0.64 / height, subtitle, ha="center", fontsize=9, color=TEXT_GREY)
    figure.text(0.5, 0.12 / height, notes, ha="center", fontsize=9, color=TEXT_GREY)
    area = {"left": 0.055, "right": right, "top": 1 - top / height, "bottom": bottom / height}
    figure.subplots_adjust(**area, wspace=wspace, hspace=0.3)
    figure.savefig(path, dpi=130, format="png")
    load_pyplot().close(figure)
