"""A Markdown report of the suites, with plots."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from .harness.intervals import Row
from .harness.optional_packages import MissingPackageError, import_optional
from .harness.steering_setup import STEPS
from .suites.baselines import DESCRIPTIONS

OURS, OUR_COLOUR = "ours", "#c2571a"


def write_report(
    path: Path, results: Mapping[str, Mapping[str, Row]], modules: Mapping[str, ModuleType], command: str
) -> Path:
    """Write the report, and plots into images/ beside it (where matplotlib is there, or can be installed).

    Args:
        results: {suite: {key: row}}.
        modules: each suite's module: its docstring is the explanation, its KEYS what each row says.
        command: the call that gave the numbers.
    """
    lines = [
        "# What steering does to answers",
        "",
        f"From `{command}`. Shares are 0–1, intervals 95%; scenes and questions are held out, decoding is greedy.",
        "",
    ]
    for suite, rows in results.items():
        lines += [f"## {suite}", "", explanation(modules[suite]), ""]
        lines += method_table(rows, modules[suite].MEASURES) if suite == "compare" else key_table(rows, modules[suite])
        plots = draw(suite, rows, path.parent / "images", path.stem)
        lines += [f"\n![{suite}](images/{plot.name})" for plot in plots] + [""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def explanation(module: ModuleType) -> str:
    """A suite's docstring without its first words, "Suite `name`: "."""
    text = inspect.cleandoc(module.__doc__ or "")
    text = text.partition(": ")[2] if text.startswith("Suite ") else text
    return text[:1].upper() + text[1:]


def key_table(rows: Mapping[str, Row], module: ModuleType) -> list[str]:
    """One line a key."""
    keys = getattr(module, "KEYS", {})
    return [
        "| measure | value | 95% interval | n | what it says |",
        "|---|---|---|---|---|",
        *(
            f"| `{key}` | {row['value']:.3f} | {row['low']:.3f} – {row['high']:.3f} | {row['n']:.0f} | "
            f"{str(keys.get(key, '')).replace('|', '/')} |"
            for key, row in rows.items()
        ),
    ]


def split(rows: Mapping[str, Row]) -> dict[str, dict[str, Row]]:
    """Rows keyed ``method.measure`` as {method: {measure: row}}, in their order."""
    found: dict[str, dict[str, Row]] = {}
    for key, row in rows.items():
        method, _, measure = key.rpartition(".")
        found.setdefault(method, {})[measure] = row
    return found


def method_table(rows: Mapping[str, Row], measures: Mapping[str, tuple[str, bool]]) -> list[str]:
    """One line a method, the best of each measure bold; then what the measures say, and where ours does not lead."""
    methods = split(rows)
    shown = [m for m in measures if any(m in found for found in methods.values())]
    best = {m: _best([found[m]["value"] for found in methods.values() if m in found], measures[m][1]) for m in shown}
    lines = [f"| method | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, found in methods.items():
        cells = [_cell(found.get(m), m, best[m]) for m in shown]
        strength = f" ({found['strength']['value']:.3g})" if "strength" in found else ""
        lines.append(f"| {name}{strength} | {' | '.join(cells)} |")
    lines += ["", "In brackets: the strength that the tuning scenes chose. Columns:", ""]
    lines += [f"- `{m}`: {measures[m][0]}; {'more' if measures[m][1] else 'less'} is better" for m in shown]
    lines += ["", "Methods:", "", *(f"- **{name}**: {DESCRIPTIONS[name]}" for name in methods if name in DESCRIPTIONS)]
    behind = not_leading(methods, {m: measures[m][1] for m in shown})
    if not behind:
        return [*lines, "", "Ours leads, or shares the lead, in every column."]
    return [*lines, "", "Where ours does not lead:", "", *(f"- {line}" for line in behind)]


def not_leading(methods: Mapping[str, Mapping[str, Row]], measures: Mapping[str, bool]) -> list[str]:
    """One line for each measure in which another method's value is better than ours."""
    ours, lines = methods.get(OURS, {}), []
    for measure, more in measures.items():
        if measure not in ours:
            continue
        mine = ours[measure]
        sign = 1 if more else -1
        ahead = [
            (name, found[measure])
            for name, found in methods.items()
            if name != OURS and measure in found and sign * (found[measure]["value"] - mine["value"]) > 1e-9
        ]
        if ahead:
            ahead.sort(key=lambda item: -sign * item[1]["value"])
            said = ", ".join(
                f"{name} {_number(row['value'], measure)}{'' if _apart(row, mine) else ' (not told apart)'}"
                for name, row in ahead
            )
            lines.append(f"`{measure}`: {said}, against {_number(mine['value'], measure)}.")
    return lines


def draw(suite: str, rows: Mapping[str, Row], folder: Path, stem: str) -> list[Path]:
    """The suite's plots as PNG; [] where matplotlib can't be had."""
    try:
        import_optional("matplotlib")
    except MissingPackageError:
        return []
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, plot in _plots(suite, rows).items():
        figure = Figure(figsize=(7.5, plot["height"]), layout="constrained")
        plot["draw"](figure.subplots())
        made.append(folder / f"{stem}_{name}.png")
        figure.savefig(made[-1], dpi=110)
    return made


def _plots(suite: str, rows: Mapping[str, Row]) -> dict[str, dict]:
    if suite == "compare":
        methods = split(rows)
        return {
            f"{suite}_{measure}": _bars({n: f[measure] for n, f in methods.items() if measure in f}, measure)
            for measure in ("whole_answer", "range4x_min")
            if any(measure in found for found in methods.values())
        }
    points = {key: row for key, row in rows.items() if key.startswith("range4x_") and key[8:].isdigit()}
    made = {suite: _bars({k: r for k, r in rows.items() if k not in points and -0.2 <= r["value"] <= 1.0}, "")}
    if points:
        made[f"{suite}_strength"] = _strengths({int(key[8:]): row for key, row in points.items()})
    return made


def _bars(rows: Mapping[str, Row], title: str) -> dict:
    """Horizontal bars with their intervals, ours in another colour."""

    def draw_on(axes) -> None:
        names, values = list(rows), [row["value"] for row in rows.values()]
        spread = [
            [max(0.0, row["value"] - row["low"]) for row in rows.values()],
            [max(0.0, row["high"] - row["value"]) for row in rows.values()],
        ]
        colours = [OUR_COLOUR if name == OURS else "#7f93a8" for name in names]
        axes.barh(names, values, xerr=spread, color=colours, ecolor="#333333", capsize=2)
        axes.invert_yaxis()
        lowest = min((min(row["value"], row["low"]) for row in rows.values()), default=0.0)
        axes.set_xlim(min(0.0, lowest) - 0.02, 1.02)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)

    return {"height": 1.0 + 0.28 * len(rows), "draw": draw_on}


def _strengths(rows: Mapping[int, Row]) -> dict:
    """Whole answers against strength: rows by their number, from 1, among STEPS."""

    def draw_on(axes) -> None:
        steps, values = [STEPS[number - 1] for number in rows], [row["value"] for row in rows.values()]
        spread = [
            [max(0.0, row["value"] - row["low"]) for row in rows.values()],
            [max(0.0, row["high"] - row["value"]) for row in rows.values()],
        ]
        axes.errorbar(steps, values, yerr=spread, marker="o", capsize=3, color=OUR_COLOUR)
        axes.set_xscale("log", base=2)
        axes.set_xticks(STEPS, [f"{step:.2g}" for step in STEPS])
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("times the setting's strength")
        axes.set_ylabel("whole answers right")
        axes.spines[["top", "right"]].set_visible(False)

    return {"height": 3.2, "draw": draw_on}


def _best(values: list[float], more: bool) -> float:
    return max(values) if more else min(values)


def _cell(row: Row | None, measure: str, best: float) -> str:
    if row is None:
        return "–"
    text = _number(row["value"], measure)
    return f"**{text}**" if text == _number(best, measure) else text


def _number(value: float, measure: str) -> str:
    return f"{value:.0f}" if measure.endswith("_ms") else f"{value:.3f}"


def _apart(a: Row, b: Row) -> bool:
    """Whether two intervals leave no doubt which is larger."""
    return a["low"] > b["high"] or b["low"] > a["high"]
