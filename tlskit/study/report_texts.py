"""Words for a paper beside the report: one page for a methods section, and a checklist with what the archive knows.

Nothing is made up: what only the author can say is asked for, in square brackets.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from tlskit.evaluation import answers, decision, reader_scores
from tlskit.metrics import METHOD
from tlskit.study import runs
from tlskit.units import counted

__all__ = ["checklist", "latex", "summary"]


def summary(run: runs.Run, answer: answers.Answer, stands_on: pd.DataFrame, readers: pd.DataFrame) -> str:
    """One page in Markdown: who was tested, what was scored and how, and what came out."""
    front = answer.front
    first, stood = front.iloc[0], stands_on.iloc[0]
    score, unit = decision.score_word(first["score"]), "um/px"
    rule = {"fixed": "a fixed threshold", "validation": "a threshold chosen on validation slides"}[
        first["threshold_by"]
    ]
    by = "validation" if decision.by_validation(front) else "test"
    lines = [
        f"# {run.dir.name}: summary", "",
        *([f"These are {run.caption}.", ""] if run.caption else []),
        "## Methods", "",
        f"{counted(len(front), 'arm')} ({', '.join(front['arm'])}), tested on the same "
        f"{counted(stood['n_slides'], 'slide')} of {counted(stood['n_patients'], 'patient')}, of which "
        f"{counted(stood['n_slides_with_target'], 'slide')} of {counted(stood['n_patients_with_target'], 'patient')} "
        f"held a target. An arm at magnification M works at 10/M {unit}. Scores are {score} of all pixels "
        f"pooled at {rule}, on one common grid, inside tissue and target. Intervals are 95 % {METHOD}. Differences "
        "between arms are paired by patient; they are called shown where their interval, simultaneous for all pairs "
        "(Bonferroni), excludes 0. An arm is chosen if it is shown to be better than all others, else the fastest of "
        f"those shown to be at most {first['margin']:g} worse than every other; below {first['usable_score']:g} none. "
        f"The choice was made on {by} patients."
        + " A cascade takes the place of the chosen arm if the same patients show it to be better, or faster and at "
        f"most {first['margin']:g} worse." * bool(len(answer.cascades)),
        "", answers.changed_by_training(front).removeprefix("Training. "), "",
        "## Results", "", *[line for text in (*answer.words, reader_scores.in_words(readers)) for line in (text, "")],
        f"| arm | {score} | 95 % from | to | minutes for a slide |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in pd.concat([front, answer.cascades]).itertuples():
        cells = [_number(v) for v in (row.estimate, row.low, row.high, row.minutes)]
        lines.append(f"| {row.arm} | {' | '.join(cells)} |")
    timed = front[front["minutes"].notna()]
    if len(timed):
        lines += ["", f"Minutes are projected to a slide of {timed['slide'].iloc[0]}, on {timed['hardware'].iloc[0]}."]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """The summary as LaTeX (for ``\\input``): headings, paragraphs, and its table."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            level = "section*" if line.startswith("# ") else "subsection*"
            lines.append(f"\\{level}{{{_escaped(line.lstrip('# '))}}}")
        elif re.match(r"\|[-|]+\|$", line):
            lines.append("\\hline")
        elif line.startswith("|"):
            cells = [_escaped(cell.strip()) for cell in line.strip("|").split("|")]
            if not lines or not lines[-1].endswith(("\\\\", "\\hline")):
                lines.append(f"\\begin{{tabular}}{{l{'r' * (len(cells) - 1)}}}")
            lines.append(" & ".join(cells) + " \\\\")
        else:
            if lines and lines[-1].endswith("\\\\"):
                lines.append("\\end{tabular}")
            lines.append(_escaped(line))
    if lines and lines[-1].endswith("\\\\"):
        lines.append("\\end{tabular}")
    return "\n".join(lines) + "\n"


def checklist(run: runs.Run, front: pd.DataFrame, stands_on: pd.DataFrame, unlike: dict, readers: pd.DataFrame) -> str:
    """What guidelines for reporting (CLAIM 2024, TRIPOD+AI) ask for: what the archive knows, and what it cannot.

    The wording is this kit's own, by topic: the guidelines themselves have the items and their numbers.
    """
    stood, first = stands_on.iloc[0], front.iloc[0]
    ask = "[author: say]"
    once = "each arm trained once" + (" in each fold" if front["n_folds"].max() > 1 else "")
    seeds = once if (front["n_repeats"] <= 1).all() else "several trainings of an arm, see the report"
    rows = [
        ("Title names the kind of study and the method", ask),
        ("Clinical aim, intended use and users", ask),
        ("Where, when and how patients and slides were collected; ethics", ask),
        ("Eligibility, and who was left out", f"compare/tables/flow.csv; reasons outside the run {ask}"),
        ("Size of the test set", f"{stood['n_slides']} slides, {stood['n_patients']} patients, "
         f"{stood['n_patients_with_target']} with a target; how the size was planned {ask}"),
        ("Reference standard: who drew outlines, by which definition, how blinded", ask),
        ("Agreement of readers", reader_scores.in_words(readers) if len(readers) else f"not in the archive {ask}"),
        ("Partition into training, validation and test, by patient", "split.csv of the run; no patient is in two sets"),
        ("Preparation of data", "records of 01_tiling in each arm"),
        ("Network, loss, training, choice of the epoch", f"records and history of 03_training; {seeds}"),
        ("Settings that differ between arms beside magnification", ", ".join(unlike) or "none that is recorded"),
        ("Measures of performance, their unit and averaging",
         f"{decision.score_word(first['score'])}, {first['pooling']}, on the {first['on']}; others in the report"),
        ("Uncertainty", METHOD),
        ("Subgroups", "compare/tables/subgroups.csv where there are several cancer types or sites"),
        ("Failures", "section What failed of the report"),
        ("Validation on data of another hospital", ask),
        ("Limits, generalisation, harm", ask),
        ("Availability of code, network and data", f"code and versions: Provenance of the report; access {ask}"),
        ("Funding, registration, protocol, conflicts", ask),
    ]  # fmt: skip
    lines = [f"# {run.dir.name}: checklist", "",
             "By the topics of CLAIM 2024 and TRIPOD+AI; `[author: say]` is what no archive can know.", "",
             *([f"These are {run.caption}.", ""] if run.caption else []), "| topic | what is known |",
             "|---|---|"]  # fmt: skip
    return "\n".join([*lines, *(f"| {topic} | {known} |" for topic, known in rows)]) + "\n"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _escaped(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)
