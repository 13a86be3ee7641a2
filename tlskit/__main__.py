"""The command line: parse, import, call. ``tlskit --help`` lists the commands."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from tlskit.errors import TlskitError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="At which magnification should a segmentation model be trained and run on whole-slide images?",
)

Preset = Annotated[Path, typer.Argument(help="A preset, such as params/demo.yaml.", show_default=False)]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="name=value: overrides the preset; may be repeated.")
]
Arms = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm (20x, 4x, compare); may be repeated.")]
Steps = Annotated[list[str] | None, typer.Option("--step", help="Only this notebook (01_tiling); may be repeated.")]


@app.command()
def synth(
    out_dir: Annotated[Path, typer.Argument(help="Folder of the cohort.", show_default=False)],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 14,
    slide_mm: Annotated[tuple[float, float], typer.Option(help="Shortest and longest side of a slide, mm.")] = (
        2.4,
        3.4,
    ),
    scan_mpp: Annotated[float, typer.Option(help="um/px of the made scans.")] = 0.499,
    objective_power: Annotated[float, typer.Option(help="Objective power that the slides report.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(help="Slides made at the same time.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Replace a cohort made with other settings.")] = False,
) -> None:
    """Make a synthetic cohort: slides, QuPath outlines and a manifest."""
    from tlskit import synthetic

    manifest = synthetic.make_cohort(
        out_dir, n_patients=patients, slide_mm=slide_mm, scan_mpp=scan_mpp, objective_power=objective_power,
        seed=seed, workers=workers, overwrite=overwrite,
    )  # fmt: skip
    typer.echo(f"{manifest}")


@app.command()
def check(
    target: Annotated[Path, typer.Argument(help="A preset (.yaml) or a manifest (.csv).", show_default=False)],
    target_class: Annotated[str, typer.Option(help="Class of the outlines, for a manifest.")] = "TLS",
    resolution_by: Annotated[str, typer.Option(help="mpp or objective, for a manifest.")] = "mpp",
) -> None:
    """Look for what would go wrong, before a run: parameters, slides, scales, outlines, split."""
    from tlskit import checks

    settings = {"target_class": target_class, "resolution_by": resolution_by}
    if target.suffix in (".yaml", ".yml"):
        from tlskit import sweep

        preset = sweep.prepare(target)
        typer.echo(f"{target.name}: every parameter is known.")
        job = sweep.plan(preset, steps=["01_tiling"])[0]
        target = Path(job.parameters["manifest"])
        settings = {name: job.parameters[name] for name in settings}
    table = checks.check_manifest(target, **settings)
    typer.echo(table.to_string(index=False))
    if (table["severity"] == "error").any():
        raise typer.Exit(1)


@app.command()
def plan(preset: Preset, parameter: Parameters = None, arm: Arms = None, step: Steps = None) -> None:
    """List the notebooks that a sweep would run, and which are done already."""
    from tlskit import sweep

    jobs = sweep.plan(sweep.prepare(preset, _overrides(parameter)), arms=arm, steps=step)
    for job in jobs:
        typer.echo(f"{job.arm:>8}  {job.step:<24}  {'done' if job.done else 'to run'}")
    typer.echo(f"{sum(not job.done for job in jobs)} of {len(jobs)} notebooks to run.")


@app.command()
def sweep(
    preset: Preset,
    parameter: Parameters = None,
    arm: Arms = None,
    step: Steps = None,
    force: Annotated[bool, typer.Option(help="Run again what is done already.")] = False,
) -> None:
    """Run the notebooks over the preset's grid; skip what is done; exit with 1 if a step or a slide failed."""
    from tlskit import sweep as sweeps

    status = sweeps.run_sweep(
        sweeps.prepare(preset, _overrides(parameter)), arms=arm, steps=step, force=force, report=typer.echo
    )
    steps = status[status["slide_id"] == ""]
    if len(steps):
        steps = steps.assign(seconds=steps["seconds"].astype(float))
        order = list(dict.fromkeys(steps["arm"]))
        table = steps.pivot_table(index="step", columns="arm", values="seconds", aggfunc="last")
        typer.echo("\nSeconds by step and arm:\n" + table.reindex(columns=order).round(0).to_string(na_rep="-"))
    bad = status[status["status"].isin(["failed", "blocked"])]
    if len(bad):
        typer.echo("\nWhat failed:")
        for row in bad.itertuples():
            typer.echo(f"  {row.arm} {row.step} {row.slide_id}: {row.reason}")
        raise typer.Exit(1)


@app.command("app")
def open_app(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Open the page: look at a run, or segment a slide from a folder. On this machine only, until Ctrl+C."""
    from tlskit import app as pages

    pages.serve(port=port, open_browser=browser)


def _overrides(parameter: list[str] | None) -> dict:
    import yaml

    given = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} should be name=value, such as magnification=4.")
        given[name.strip()] = yaml.safe_load(value)
    return given


def main() -> None:
    """Entry point of the command ``tlskit``: what tlskit raises on purpose ends as a sentence, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except TlskitError as error:
        typer.echo(f"tlskit: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
