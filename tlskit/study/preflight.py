"""What would end a run after hours, found before it: parameters that cannot work together, and the machine itself.

`tlskit.cohort.checks` looks at the slides; the rows here have the same columns and stand above its.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from tlskit import __version__, cohort, maps, networks, units
from tlskit.cohort import checks
from tlskit.errors import ParameterError, TlskitError
from tlskit.files import Claims, project_root, resolve
from tlskit.metrics import uncertainty
from tlskit.study import beforehand, declarations, keys, params, project, sweep
from tlskit.tiles import context_faults

__all__ = [
    "areas_um2_of", "arms_of", "check_preset", "check_run", "densest_overlap", "shown_on_page", "slides_compared",
]  # fmt: skip

#: What `checks.check_manifest` asks of a run.
_OF_COHORT = (
    "target_class", "ignore_class", "region_class", "resolution_by", "apply_icc", "tile_px", "missing_target",
    "split_ratios", "split_seed", "folds",
)  # fmt: skip

#: Bytes a map takes for each pixel of its slide, pyramid included: measured on untrained networks, whose noise is the
#: hardest to compress.
_MAP_BYTES_A_PX = 0.5
#: A tile as a PNG, with its mask, a pixel: H&E in 8 bits.
_TILE_BYTES_A_PX = 1.9
#: A checkpoint, and the state of a training that is under way: weights, kept weights, gradients' two moments. Once that
#: is gone, what was compiled for the checkpoint takes its place: as much as a checkpoint for each way of running it.
_CHECKPOINT_COPIES = 5
#: A parameter that holds a file or a setting of the network: an arm with other values of them is another network.
_OF_NETWORK = (
    "encoder", "encoder_weights", "tile_px", "batch_size", "engine", "precision", "window_overlap", "context_ratio",
    "context_px",
)  # fmt: skip


def shown_on_page(preset: dict) -> tuple[Path, dict]:
    """A preset's manifest, and what `cohort.write_slide_page` asks of a run, of its first arm."""
    arm = arms_of(preset)[0]
    return resolve(arm["manifest"]), {name: arm[name] for name in ("target_class", "resolution_by", "apply_icc")}


def arms_of(preset: dict) -> list[dict]:
    """The parameters of each arm, those that the preset leaves out at their defaults."""
    defaults = {}
    for step in sweep.notebooks():
        declared = declarations.notebook_parameters(keys.notebook_path(step))
        defaults |= {name: parameter.default for name, parameter in declared.items()}
    return [defaults | arm for arm in params.arms(preset)]


def check_preset(preset: dict) -> pd.DataFrame:
    """Look at all that a sweep of a preset would meet: parameters, machine, slides, outlines, split.

    Parameters
    ----------
    preset
        As `sweep.prepare` returns it.

    Returns
    -------
    DataFrame
        As of `checks.check_manifest`, errors first.
    """
    arms = arms_of(preset)
    tables, groups = [check_run(arms)], {}
    for arm in arms:
        settings = {name: arm[name] for name in _OF_COHORT if name in arm}
        groups.setdefault(repr(settings), (settings, []))[1].append(arm["magnification"])
    for settings, magnifications in groups.values():
        looked = checks.check_manifest(
            resolve(arms[0]["manifest"]), magnifications=list(dict.fromkeys(magnifications)), **settings
        )
        tables.append(looked)
    table = pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)
    order = table["severity"].map({name: i for i, name in enumerate(checks.SEVERITIES)})
    return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def check_run(arms: Sequence[dict]) -> pd.DataFrame:
    """Look at a preset's arms and at this machine.

    Parameters
    ----------
    arms
        The parameters of each arm, those that the preset leaves out at their defaults.

    Returns
    -------
    DataFrame
        The columns of `checks.check_manifest`; ``slide_id`` is ``run``, ``problem`` is ``parameters``, ``network``,
        ``memory``, ``disk``, ``claims``, ``machine`` or ``page``.
    """
    rows: list[dict] = []

    def add(severity: str, problem: str, what: str, remedy: str = "") -> None:
        row = dict(zip(checks.COLUMNS, (severity, "run", problem, what, remedy), strict=True))
        if row not in rows:
            rows.append(row)

    seen = set()
    for arm in arms:
        key = tuple(str(arm.get(name)) for name in _OF_NETWORK)
        if key not in seen:
            seen.add(key)
            _look_at_network(arm, add)
    folder = _existing(resolve(arms[0]["outputs_dir"]))
    if _look_at_folder(folder, add):
        _look_at_disk(folder, arms, add)
        _look_at_claims(folder, add)
    _look_at_machine(arms, add)
    return pd.DataFrame(rows, columns=list(checks.COLUMNS))


def _look_at_network(arm: dict, add: Callable[..., None]) -> None:
    """What the steps 03 to 06 would refuse, by the functions that they call."""
    name = arm.get("arm") or units.magnification_name(arm["magnification"])
    tile_px, batch_size = arm["tile_px"], arm["batch_size"]
    for fault in beforehand.arm_faults(arm):
        add("error", "parameters", f"{fault}.")
    if context_faults(tile_px, arm["context_px"], arm["context_ratio"]):
        arm = arm | {"context_ratio": 0}  # said above; the rest is looked at as of a network without
    if tile_px % 32:
        tile_px = max(32, round(tile_px / 32) * 32)
    try:
        maps.inference.layout_for(SimpleNamespace(tile_px=tile_px), overlap=densest_overlap(arm))
    except TlskitError as error:
        add("error", "parameters", f"{error}")
    if arm["window_overlap"] == "auto" and arm["overlap_slides"] < uncertainty.FEW_PATIENTS:
        add(
            "warning", "parameters", f"`overlap_slides` is {arm['overlap_slides']}: so few validation slides show no "
            f"overlap to be enough, and `window_overlap: auto` takes {densest_overlap(arm):g}.",
            f"Set `overlap_slides: {uncertainty.FEW_PATIENTS}` or more, or `window_overlap` to a number.",
        )  # fmt: skip
    try:
        model = networks.models.build_model(
            encoder=arm["encoder"], encoder_weights=arm["encoder_weights"], context_ratio=arm["context_ratio"]
        )
    except TlskitError as error:
        add("error", "network", f"{error}")
        return
    if arm["encoder_weights"] != "none":
        add("note", "network", f"The weights of {arm['encoder']} ({arm['encoder_weights']}) are here and fit it.")
    try:
        networks.engines.check_engine(model, engine=arm["engine"], precision=arm["precision"])
    except TlskitError as error:
        add("error", "parameters", f"{error}")
        return
    _look_at_memory(name, arm | {"tile_px": tile_px, "batch_size": batch_size}, model, add)


def _look_at_memory(name: str, arm: dict, model, add: Callable[..., None]) -> None:
    hardware = networks.describe_hardware()
    asked = hardware["precision"] if arm["precision"] == "auto" else arm["precision"]
    try:
        wanted = networks.training_bytes(
            model, tile_px=arm["tile_px"], batch_size=arm["batch_size"], mixed=asked != "exact",
            context_px=arm["context_px"] if arm["context_ratio"] else 0,
        )  # fmt: skip
    except ParameterError as error:
        add("error", "parameters", f"{error}", "Set a larger `batch_size` or `tile_px`.")
        return
    on_gpu = hardware["device"] == "cuda"
    there = hardware["gpu_memory_gb"] * 2**30 if on_gpu else _memory_bytes()
    where = hardware["gpu"] if on_gpu else "this machine (no GPU is found)"
    context = f", each with a context of {arm['context_px']} px" if arm["context_ratio"] else ""
    said = (
        f"A step of training ({arm['batch_size']} tiles of {arm['tile_px']} px{context}, {asked}) takes about "
        f"{wanted / 1e9:.1f} GB; {where} has {there / 1e9:.1f} GB."
    )
    fewer = max(1, int(arm["batch_size"] * 0.7 * there / wanted))
    if wanted > there:
        add("error", "memory", said, f"Set `batch_size: {fewer}`, or smaller tiles.")
    elif wanted > 0.8 * there:
        add("warning", "memory", f"{said} It may not fit.", f"`batch_size: {fewer}` is safe.")
    else:
        add("note", "memory", said)


def _memory_bytes() -> float:
    """What this process may use: of the machine, or of the job that it runs in."""
    import psutil

    there = float(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            there = min(there, float(Path(limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return there


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _look_at_folder(folder: Path, add: Callable[..., None]) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        add(
            "error", "disk", f"Nothing can be written into {folder.name} ({error.strerror}).",
            "Choose another `outputs_dir`, or have its rights changed.",
        )  # fmt: skip
        return False


def _look_at_disk(folder: Path, arms: Sequence[dict], add: Callable[..., None]) -> None:
    free = shutil.disk_usage(folder).free
    areas_um2 = areas_um2_of(arms[0])
    # What is equal in several arms is made once, and linked.
    wanted = sum(_bytes_of_tiles(arm, areas_um2) for arm in _unequal(arms, 1))
    wanted += _CHECKPOINT_COPIES * 27e6 * len(_unequal(arms, 3))
    wanted += sum(_bytes_of_maps(arm, areas_um2) for arm in _unequal(arms, 5))
    if wanted == 0:
        return
    said = (
        f"The plan writes up to about {_gb(wanted)} (maps of the slides that are not trained on, checkpoints, stored "
        f"tiles); {_gb(free)} are free."
    )
    if wanted > free:
        add("error", "disk", said, "Make room, or set `outputs_dir` to a larger disk.")
    elif wanted > 0.5 * free:
        add("warning", "disk", said, "Others write to that disk, too.")
    else:
        add("note", "disk", said)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def areas_um2_of(arm: dict) -> list[float]:
    """Areas of the cohort's slides, glass included; slides that cannot be opened are told by `checks`."""
    try:
        rows = list(cohort.slide_rows(cohort.read_manifest(resolve(arm["manifest"]))))
    except TlskitError:
        return []
    areas = []
    for row in rows:
        try:
            with cohort.open_row(row, resolution_by=arm["resolution_by"]) as slide:
                areas.append(slide.size_px0[0] * slide.size_px0[1] * slide.mpp0**2)
        except (TlskitError, OSError):
            continue
    return areas


def _unequal(arms: Sequence[dict], number: int) -> list[dict]:
    """One of each group of arms that are equal in what decides a numbered step and those before it."""
    steps = [step for step in keys.STEPS if int(step[:2]) <= number and int(step[:2]) != 4]  # 05 does not read 04
    names = {name for step in steps for name in declarations.notebook_parameters(keys.notebook_path(step))}
    names -= {*keys.PLACES}
    return list({json.dumps([arm.get(name) for name in sorted(names)]): arm for arm in arms}.values())


def _bytes_of_maps(arm: dict, areas_um2: list[float]) -> float:
    ratios = arm["split_ratios"]
    untrained = 1 - ratios[0] / sum(ratios) if sum(ratios) else 1.0
    # While 05 runs, those of the compared overlaps lie beside them.
    untrained += len(maps.OVERLAPS) * slides_compared(arm, len(areas_um2)) / max(1, len(areas_um2))
    return sum(areas_um2) / units.mpp_for_magnification(arm["magnification"]) ** 2 * untrained * _MAP_BYTES_A_PX


def densest_overlap(arm: dict) -> float:
    """The overlap of an arm's windows; the densest that may be chosen where it is ``auto``."""
    return max(maps.OVERLAPS) if arm["window_overlap"] == "auto" else arm["window_overlap"]


def slides_compared(arm: dict, n_slides: int) -> float:
    """On how many of a cohort's slides an arm compares overlaps: validation slides, as many as there are."""
    ratios = arm["split_ratios"]
    return min(arm["overlap_slides"], n_slides * ratios[1] / sum(ratios) if sum(ratios) else n_slides)


def _bytes_of_tiles(arm: dict, areas_um2: list[float]) -> float:
    if arm.get("tile_store") != "png":
        return 0.0
    pixels = sum(areas_um2) / units.mpp_for_magnification(arm["magnification"]) ** 2
    per_px = 1 + (arm["context_px"] / arm["tile_px"]) ** 2 * bool(arm["context_ratio"])
    return pixels / max(1 - arm["overlap"], 0.1) ** 2 * per_px * _TILE_BYTES_A_PX


def _look_at_claims(folder: Path, add: Callable[..., None]) -> None:
    """Whether two who ask for one piece at the same time are told apart on this disk."""
    with tempfile.TemporaryDirectory(prefix=".tmp-check-", dir=folder) as place:
        first, second = Claims(Path(place) / "claims"), Claims(Path(place) / "claims")
        try:
            both = first.take("piece") and second.take("piece")
        except (TlskitError, OSError) as error:
            add("error", "claims", f"A claim cannot be made in {folder.name}: {error}", "Use another disk for the run.")
            return
        finally:
            first.release("piece")
            second.release("piece")
        if both:
            add(
                "error", "claims", f"On the disk of {folder.name} two processes can claim one piece of work.",
                "Run one sweep at a time there, or use another disk for `outputs_dir`.",
            )  # fmt: skip
        if not _flock_excludes(Path(place) / "lock"):
            add("note", "claims", "`flock` does nothing on this disk; a run's claims do without it.")


def _flock_excludes(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    with path.open("w") as first, path.open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _look_at_machine(arms: Sequence[dict], add: Callable[..., None]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(arm["workers"] for arm in arms)
    if workers > cores:
        add(
            "warning", "machine", f"`workers` is {workers}; this process may use {cores} cores.",
            f"Set `workers: {cores}`.",
        )  # fmt: skip
    made_with = project.written_by(project_root())
    if made_with != __version__:
        add(
            "warning", "machine", f"The notebooks here are of tlskit {made_with}; installed is {__version__}.",
            "Make a new folder with `tlskit init`, and take your presets and changes over.",
        )  # fmt: skip
    for problem in _page_problems():
        add("note", "page", problem)


def _page_problems() -> Iterator[str]:
    missing = [name for name in ("voila", "anywidget") if importlib.util.find_spec(name) is None]
    if missing:
        yield f"`tlskit app` needs {' and '.join(missing)}: pip install 'tlskit[app]'."
    from tlskit.study import report_page  # it draws: what that loads takes a second

    if report_page.find_browser() is None:
        yield "No Chromium or Chrome is found: the report is a page without a PDF."
