"""The command line: parse, import, call. ``tlskit --help`` lists the commands."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tlskit.errors import TlskitError
from tlskit.files import is_disk_full

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

On = Annotated[
    str | None,
    typer.Option(help="Workers: local:N, tcp://host:port (a Dask scheduler), or a YAML for Slurm, PBS and others."),
]
Stage = Annotated[Path | None, typer.Option(help="A local folder: slides are copied there while they are used.")]

#: Exit codes: 1 a step or a slide failed, 2 refused (the reason is said), 75 the workers went before all was done (run
#: the same command to go on), 130 and 143 stopped by Ctrl-C or a scheduler.
REFUSED, GO_ON, INTERRUPTED, TERMINATED = 2, 75, 130, 143


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, such as my-study.", show_default=False)],
) -> None:
    """Make a folder of your own: the notebooks and presets of this version, to run and to change."""
    from tlskit.study import project

    written = project.make_project(folder)
    typer.echo(
        f"{len(written)} files in {folder}. Next:\n  cd {folder}\n  tlskit synth outputs/cohorts/demo\n"
        "  tlskit sweep params/demo.yaml     (or jupyter lab, for the notebooks)"
    )


@app.command()
def synth(
    out_dir: Annotated[Path, typer.Argument(help="Folder of the cohort.", show_default=False)],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 14,
    slide_mm: Annotated[tuple[float, float], typer.Option(help="Shortest and longest side, mm.")] = (2.0, 2.8),
    scan_mpp: Annotated[float, typer.Option(help="um/px of the made scans.")] = 0.499,
    objective_power: Annotated[float, typer.Option(help="Objective power that the slides report.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Slides made at the same time.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Replace a cohort made with other settings.")] = False,
    second_reader: Annotated[bool, typer.Option(help="Add outlines by a second, made-up person.")] = False,
) -> None:
    """Make a synthetic cohort: slides, QuPath outlines and a manifest."""
    from tlskit.synthetic import make_cohort

    manifest = make_cohort(
        out_dir, n_patients=patients, slide_mm=slide_mm, scan_mpp=scan_mpp, objective_power=objective_power,
        seed=seed, workers=workers, overwrite=overwrite, second_reader=second_reader,
    )  # fmt: skip
    typer.echo(f"{manifest}")


@app.command()
def check(
    target: Annotated[Path, typer.Argument(help="A preset (.yaml) or a manifest (.csv).", show_default=False)],
    parameter: Parameters = None,
    target_class: Annotated[str, typer.Option(help="Class of the outlines, for a manifest.")] = "TLS",
    ignore_class: Annotated[str, typer.Option(help="Class that is left out, for a manifest.")] = "",
    region_class: Annotated[str, typer.Option(help="Class of wholly outlined regions, for a manifest.")] = "",
    resolution_by: Annotated[Literal["mpp", "objective"], typer.Option(help="For a manifest.")] = "mpp",
    slides: Annotated[Path | None, typer.Option(help="Also write an HTML page of all slides, worst first.")] = None,
) -> None:
    """Look for what would go wrong, before a run: parameters, this machine, slides, scales, outlines, split."""
    from tlskit.cohort import checks, write_slide_page

    if target.suffix in (".yaml", ".yml"):
        from tlskit.study import preflight, project, sweep

        project.require_project()
        preset = sweep.prepare(target, _overrides(parameter))
        typer.echo(f"{target.name}: every parameter is known and has a value of its kind.\n")
        table = preflight.check_preset(preset)
    elif parameter:
        raise typer.BadParameter("a manifest has no parameters; give a preset.", param_hint="-p")
    else:
        table = checks.check_manifest(
            target, target_class=target_class, ignore_class=ignore_class, region_class=region_class,
            resolution_by=resolution_by,
        )  # fmt: skip
    typer.echo(checks.as_text(table))
    if slides is not None:
        shown = {"target_class": target_class, "resolution_by": resolution_by}
        if target.suffix in (".yaml", ".yml"):
            target, shown = preflight.shown_on_page(preset)
        typer.echo(f"\n{write_slide_page(target, table, slides, **shown)}")
    if (table["severity"] == "error").any():
        raise typer.Exit(1)


@app.command()
def predict(
    slide: Annotated[list[Path], typer.Argument(help="Slides.", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="A trained network: work/checkpoint.pt of an arm.")],
    out: Annotated[Path, typer.Option(help="Folder for maps and outlines.")],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Probability from which a pixel counts; by default as chosen on validation."),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Share of a window that its neighbour repeats; by default as notebook 05 took it."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 8,
    engine: Annotated[Literal["auto", "torch", "openvino"], typer.Option(help="Runs the network.")] = "auto",
    precision: Annotated[
        Literal["auto", "exact", "bf16", "fp16"],
        typer.Option(help="auto: the fastest that keeps the answer of float32; exact: float32."),
    ] = "auto",
    min_object_um2: Annotated[float, typer.Option(help="Smaller objects are dropped.")] = 1000.0,
    mpp: Annotated[float | None, typer.Option(help="um/px of those slides that do not say it.")] = None,
    screen: Annotated[
        Path | None, typer.Option(help="A coarser network, work/checkpoint.pt, that says where the other one looks.")
    ] = None,
    screen_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Where the coarser one reaches this; by default as notebook cascade chose."),
    ] = None,
    screen_grow_um: Annotated[float | None, typer.Option(min=0, help="And this much round it.")] = None,
    on: On = None,
    stage: Stage = None,
) -> None:
    """Run a trained network over slides: a probability map and a QuPath GeoJSON of each.

    A slide that is there already is passed over. Given twice at a time, the command shares the slides.
    """
    _stage_in(stage)
    from tlskit.study import launch, predicting

    if screen is None and (screen_threshold is not None or screen_grow_um is not None):
        raise typer.BadParameter("it is of a screen: give --screen, too.", param_hint="--screen-threshold")
    if (screen_threshold is None) != (screen_grow_um is None):
        raise typer.BadParameter("give both, or neither.", param_hint="--screen-threshold, --screen-grow-um")
    options = {
        "mpp": mpp, "threshold": threshold, "overlap": overlap, "batch_size": batch_size, "engine": engine,
        "precision": precision, "min_object_um2": min_object_um2, "report": typer.echo,
    }  # fmt: skip
    if screen is not None:
        options["screen"], said = predicting.screen_setting(screen, checkpoint, screen_threshold, screen_grow_um)
        typer.echo(said)
    if on is None:
        found, outcome = predicting.predict(slide, checkpoint, out, **options), None
    else:
        found, outcome = predicting.predict_on(slide, checkpoint, out, on=on, **options)
    if outcome and (outcome.lost or outcome.failures):
        typer.echo(launch.GO_ON if outcome.lost else "Workers have stopped; run the same command to go on.", err=True)
    if any(one.state == "left" for one in found):
        left = ", ".join(one.slide_id for one in found if one.state == "left")
        typer.echo(f"Not predicted yet: {left}", err=True)
        raise typer.Exit(GO_ON)
    if any(one.state == "failed" for one in found):
        raise typer.Exit(1)


@app.command()
def compare(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run, such as outputs/demo.", show_default=False)],
    threshold_by: Annotated[
        Literal["fixed", "validation"], typer.Option(help="validation: chosen for each arm.")
    ] = "fixed",
    slides: Annotated[
        Literal["same", "common"] | None,
        typer.Option(
            help="common: leave out slides that an arm lacks; same: refuse. By default as the run says.",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        Literal["all", "ready"],
        typer.Option(help="ready: leave out arms that are missing, failed or out of date; all: refuse."),
    ] = "all",
) -> None:
    """Rebuild a run's comparison and report from its tables, with its own parameters; no slide or network is opened."""
    from tlskit.study import report

    typer.echo(f"{report.write_report(run_dir, threshold_by=threshold_by, slides=slides, compare_arms=arms)}")


@app.command()
def export_qupath_scripts(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("."),
    target_class: Annotated[str, typer.Option(help="QuPath class of the outlines.")] = "TLS",
) -> None:
    """Write three QuPath scripts: outlines and manifest out of a project, predictions into it, a map over a slide."""
    from tlskit.outlines import qupath

    for path in qupath.write_scripts(folder, target_class=target_class):
        typer.echo(f"{path}")


@app.command()
def plan(preset: Preset, parameter: Parameters = None, arm: Arms = None, step: Steps = None) -> None:
    """List the notebooks that a sweep would run, with the reason, and which are done already."""
    from tlskit.study import project, sweep

    project.require_project()
    jobs = sweep.plan(sweep.prepare(preset, _overrides(parameter)), arms=arm, steps=step)
    for job in jobs:
        do = f"as {job.same_as}" if job.same_as else "to run"
        typer.echo(f"{job.arm:>8}  {job.step:<24}  {'done' if job.done else f'{do}: {job.why}'}")
    taken = sum(bool(job.same_as) for job in jobs)
    more = f" {taken} more are taken over from arms that are equal in them." if taken else ""
    typer.echo(f"{sum(not job.done for job in jobs) - taken} of {len(jobs)} notebooks to run.{more}")


@app.command()
def sweep(
    preset: Preset,
    parameter: Parameters = None,
    arm: Arms = None,
    step: Steps = None,
    force: Annotated[bool, typer.Option(help="Run again what is done already.")] = False,
    retry: Annotated[bool, typer.Option(help="Run again the steps in which a slide failed.")] = False,
    on: On = None,
    stage: Stage = None,
) -> None:
    """Run the notebooks over the preset's grid; skip what is done; exit with 1 if a step or a slide failed.

    Started several times, on one machine or on several that share the folder, it shares the work.
    """
    from tlskit.study import prepare, project, run_sweep

    project.require_project()
    _stage_in(stage)
    prepared = prepare(preset, _overrides(parameter))
    if on is None:
        lost = False
        status = run_sweep(prepared, arms=arm, steps=step, force=force, retry=retry, report=typer.echo)
    elif force:
        raise typer.BadParameter("each worker would run all again: give --force without --on.", param_hint="--force")
    else:
        from tlskit.study import launch

        status, stopped, lost = launch.sweep_on(
            prepared, on=on, arms=arm, steps=step, retry=retry, report=typer.echo
        )  # fmt: skip
        lost = lost or bool(stopped) and (status["status"] == "blocked").any()
    steps = status[(status["slide_id"] == "") & (status["seconds"] != "")]
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
    if lost:
        typer.echo(f"\n{launch.GO_ON}", err=True)
        raise typer.Exit(GO_ON)
    if len(bad):
        raise typer.Exit(1)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run: its folder, or its name.", show_default=False)]) -> None:
    """Say where a run stands: what is being run by whom, what failed, what is left, how long it may take."""
    from tlskit.study import progress

    typer.echo(progress.as_text(progress.look(progress.find_run(run))))


@app.command("app")
def open_app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    outputs: Annotated[Path | None, typer.Option(help="Folder of the runs, where it is not the project's.")] = None,
) -> None:
    """Open the page: look at a run, or segment a slide from a folder. On this machine only, until Ctrl+C."""
    from tlskit.explore import serve

    serve(port=port, open_browser=browser, outputs_dir=outputs)


def _stage_in(folder: Path | None) -> None:
    """Have slides copied to a local folder ahead of their use; the kernels and workers started here do so, too."""
    if folder is not None:
        import os

        from tlskit.slides import staging

        os.environ[staging.VARIABLE] = str(folder)


def _overrides(parameter: list[str] | None) -> dict:
    from tlskit.study import params

    given = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{text!r} should be name=value, such as magnification=4.", param_hint="-p")
        given[name.strip()] = params.parse_value(value)
    return given


def main() -> None:
    """Entry point of the command ``tlskit``: what ends it on purpose is told in a sentence, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
    stopped_by = signal.SIGINT

    def stop(number, frame) -> None:
        # A scheduler asks first (SIGTERM) and kills later: as with Ctrl-C, there is time to let go of what is held.
        nonlocal stopped_by
        stopped_by = signal.Signals(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    code = 0
    try:
        app()
    except SystemExit as error:
        code = error.code or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TlskitError as error:
        typer.echo(f"tlskit: {error}", err=True)
        code = REFUSED
    except OSError as error:  # a folder that is read-only, missing or on a share that is away
        if error.filename is None and not is_disk_full(error):
            raise
        typer.echo(f"tlskit: {error.filename or 'a file'}: {error.strerror or error}.", err=True)
        code = REFUSED
    if code == INTERRUPTED:
        code = codes[stopped_by]
        typer.echo(
            f"\ntlskit: stopped ({stopped_by.name}). What was finished is kept; run the same command to go on.",
            err=True,
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
