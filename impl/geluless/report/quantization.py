"""Per-layer quantization error: how far an integer network lies, after each layer, from the float network it was made from.

Drawn from `report_data["micro_networks"][size]["quantization_error"]`: [{layer, relative_error, variant}] in the order of the
network, variant being "int8-relu" or "int8-gelu"; see geluless.verdicts.layer_errors for what the error is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geluless.report.plots import MARKERS, SERIES, frame, log_axis, panel_rows, panels, svg
from geluless.report.tables import folded, table_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Errors = dict[str, dict[str, float]]  # by variant, then by layer
CAPTION = (
    "Relative error in per cent after each layer (embedding, patch mergings, blocks, in the order of the network; their names "
    "are in the tables): norm of integer minus float over norm of float, over all values of the same test images; logarithmic. "
    "The errors of earlier layers are passed on. Exact for those images, so without an interval."
)


def errors_of(network: Mapping[str, Any]) -> Errors:
    """What can be drawn of one network: errors that are numbers above zero."""
    errors: Errors = {}
    for row in network.get("quantization_error") or ():
        error = row["relative_error"]
        if error is not None and math.isfinite(error) and error > 0:
            errors.setdefault(row["variant"], {})[row["layer"]] = error
    return errors


def quantization_plot(networks: Mapping[str, Any]) -> str | None:
    """Error in per cent against the layer's place, one panel per size, one line per variant; None without any error."""
    sizes = {size: errors for size, network in networks.items() if (errors := errors_of(network))}
    if not sizes:
        return None
    variants = list(dict.fromkeys(variant for errors in sizes.values() for variant in errors))

    def draw(figure: Figure) -> None:
        titled = panels(figure, list(sizes), sharey=True)
        for axes, errors in zip(titled, sizes.values(), strict=True):
            places = {layer: place for place, layer in enumerate(_layers(errors), start=1)}
            for variant, by_layer in errors.items():
                index = variants.index(variant)
                where, errors_percent = [places[layer] for layer in by_layer], [100 * error for error in by_layer.values()]
                colour = SERIES[index % len(SERIES)]
                axes.plot(where, errors_percent, color=colour, linewidth=0.9, alpha=0.7)
                axes.plot(where, errors_percent, MARKERS[index % len(MARKERS)], color=colour, markersize=2.5, label=variant)
            log_axis(axes, "y")
            axes.set_xlabel("layer")
            axes.set_ylabel("relative error, %")
            frame(axes)
        titled[0].legend(loc="best", frameon=False)

    label = "Relative quantization error per layer, by size and variant"
    return svg(draw, height=0.4 + 2.4 * panel_rows(list(sizes)), salt="quantization", label=label)


def quantization_tables(networks: Mapping[str, Any]) -> list[str]:
    """One folded table per size: a row per layer, a column per variant."""
    lines: list[str] = []
    for size, network in networks.items():
        if not (errors := errors_of(network)):
            continue
        rows = [
            [layer, *(f"{100 * by_layer[layer]:.3g}" if layer in by_layer else "–" for by_layer in errors.values())]
            for layer in _layers(errors)
        ]
        table = table_lines(["layer", *(f"{name}, %" for name in errors)], rows)
        lines += folded(f"Relative quantization error of every layer, {size}", table)
    return lines


def _layers(errors: Errors) -> list[str]:
    return list(dict.fromkeys(layer for by_layer in errors.values() for layer in by_layer))
