"""The page of a run: self-contained, escaped, and made from tables alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_archive import CAPTION, write_archive
from made_folds import write_folds

from tlskit.errors import ComparisonError
from tlskit.metrics import training_note
from tlskit.study import report, report_page, report_scores


class Page(HTMLParser):
    """Collects tags that could load something, and the text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = write_archive(
        tmp_path_factory.mktemp("runs") / "demo", arms={1: (0.35, 2.0), 4: (0.62, 25.0)}, n_patients=6
    )
    (run_dir / "provenance.json").write_text(
        json.dumps({"tlskit": "0.1.0", "packages": {"torch": "2.15.0"}, "cpu": "<b>x</b>"})
    )
    status = pd.DataFrame(
        [
            {
                "arm": "4x",
                "step": "05",
                "slide_id": "bad",
                "status": "failed",
                "reason": "<script>alert(1)</script>",
                "seconds": "",
                "key": "",
            }
        ]
    )
    status.to_csv(run_dir / "status.csv", index=False)
    rows = [("p00", "lung", "test"), ("p90", "<i>odd</i>", "train")]
    pd.DataFrame(rows, columns=["patient_id", "cancer_type", "split"]).to_csv(run_dir / "split.csv", index=False)
    return run_dir


@pytest.fixture(scope="module")
def page(run_dir):
    path = report.write_report(run_dir, draws=200, pdf=False)
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(page):
    found = Page(page)
    assert found.links and all(link.startswith(("data:image/png;base64,", "#")) for link in found.links)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert not re.search(r"url\(|@import|https?://(?!doi)", page)
    assert found.tags.count("img") == 16


def test_the_page_answers_first_and_shows_every_part(page):
    text = Page(page).text
    for part in (
        "At which magnification", "The answer", "Scores by magnification", "What it costs", "One common grid",
        "How the way of averaging decides", "Objects found", "Thresholds and calibration", "audited", "Provenance",
        "6 patients", "Caution: only 6 test patients", "torch", "2.15.0", "How firm the choice is",
        "Training. Each arm was",
        "Threshold. At the thresholds chosen", "Averaging. ", "How the arms were trained", "Cancer types and sites",
        "Slides without target", "Dice of a found object", "false objects per mm2", "Two people: what they reach",
        "The worst slides and fields", "Pictures are missing: the run does not say which manifest",
        "Loss and validation IoU of every training",
    ):  # fmt: skip
        assert part in text
    # Before the heading of the next part (the first mention of which is in the list of contents).
    assert text.index("Each arm was trained once") < text.rindex("The cohort")
    assert "Not available" not in text


def test_text_from_files_is_escaped(page):
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "&lt;i&gt;odd&lt;/i&gt;" in page


def test_tables_and_figures_stand_beside_the_page(run_dir, page):
    tables = {path.stem for path in (run_dir / "compare" / "tables").glob("*.csv")}
    assert {"table_one", "audit", "grid", "intervals", "differences", "objects", "pareto"} <= tables
    for path in (run_dir / "compare" / "figures").glob("*.png"):
        assert path.with_suffix(".pdf").is_file()
    from tlskit.evaluation import comparison

    archived = pd.read_csv(run_dir / "compare" / "tables" / "table_one.csv")
    assert archived["iou"].tolist() == pytest.approx(comparison.table_one(run_dir)["iou"].tolist())


def test_a_part_without_its_tables_says_so_and_the_others_are_made(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0)}, n_patients=4)
    for name in ("06_stages", "05_objects", "05_objects_per_slide"):
        for arm in ("1x", "4x"):
            (run_dir / arm / "tables" / f"{name}.csv").unlink()
    text = Page(report.write_report(run_dir, draws=100, pdf=False).read_text(encoding="utf-8")).text
    assert "Not available: No arm of the run run has the table 06_stages: run step 06 first." in text
    assert "Every arm's probabilities, brought to the same physical pixels" in text


def test_the_archive_itself_says_what_kind_of_data_it_holds(page):
    """The cohort's manifest is not at hand here."""
    assert f"These are {CAPTION}." in Page(page).text


def test_arms_that_differ_get_no_report(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0)}, n_patients=4)
    path = run_dir / "4x" / "tables" / "05_counts_per_slide.csv"
    table = pd.read_csv(path)
    table[table["slide_id"] != "slide_01"].to_csv(path, index=False)
    with pytest.raises(ComparisonError, match="slide_01"):
        report.write_report(run_dir, pdf=False)
    assert not (run_dir / "compare" / "report.html").exists()


@pytest.mark.skipif(report_page.find_browser() is None, reason="no browser that prints PDF is installed")
def test_the_page_is_printed_where_a_browser_is_installed(run_dir, page):
    html = run_dir / "compare" / "report.html"
    report_page.print_pdf(html, html.with_suffix(".pdf"))
    assert html.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_without_a_browser_the_page_stands_alone(run_dir, page, monkeypatch):
    monkeypatch.setattr(report_page.shutil, "which", lambda name: None)
    pdf = run_dir / "compare" / "report.pdf"
    pdf.write_bytes(b"%PDF of an older run")
    report_page.print_pdf(run_dir / "compare" / "report.html", pdf)
    assert not pdf.exists()


def test_words_for_a_paper_stand_beside_the_page(run_dir, page):
    folder = run_dir / "compare"
    words, tex = (folder / "summary.md").read_text(), (folder / "summary.tex").read_text()
    for text in ("Each arm was trained once", "| 4x | 0.", "test patients", "t intervals", "80,000 x 60,000 px"):
        assert text in words
    assert "95 \\% t intervals" in tex and tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 1
    known = (folder / "checklist.md").read_text()
    assert "8 slides, 6 patients" in known and "[author: say]" in known


def test_a_comparison_made_again_has_the_parameters_of_the_run(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={4: (0.62, 25.0)}, n_patients=4)
    assert report.options_of(run_dir) == report.DEFAULTS
    (run_dir / "run.yaml").write_text("batch_size: 4\nmargin: 0.02\ncompare_slides: common\n")
    options = report.options_of(run_dir)
    assert (options["batch_size"], options["margin"], options["compare_slides"]) == (4, 0.02, "common")


def test_names_from_files_keep_their_signs(run_dir):
    shown = report_page.show_table(pd.DataFrame({"slide_id": ["a_b"], "reason": ["x_y"], "pooling": ["pooled"]}), "")
    assert [cell[0] for cell in shown["rows"][0]] == ["a_b", "x_y", "all pixels pooled"]


def test_the_choice_made_on_validation_is_the_answer_of_the_page(tmp_path, monkeypatch):
    """In a run with folds each fold chooses, and what was chosen has one score on all patients."""
    monkeypatch.setattr(report_scores, "PARTS", ())
    run_dir = write_folds(tmp_path / "outputs" / "folds", recall={"20x": 0.4, "4x": 0.75})
    page = Page(report.write_report(run_dir, pdf=False).read_text(encoding="utf-8")).text
    chosen = "Chosen in each of 3 folds, on its own validation patients: 4x."
    assert chosen in page and "on the 24 test patients, which no choice saw: " in page
    assert page.index(chosen) < page.index("The test patients alone: 4x is shown to be better than 20x")
    table = pd.read_csv(run_dir / "compare" / "tables" / "chosen_on_validation.csv")
    assert table["fold"].tolist() == [0, 0, 1, 1, 2, 2] and set(table.loc[table["chosen"], "arm"]) == {"4x"}
    assert len(pd.read_csv(run_dir / "compare" / "tables" / "score_of_choice.csv")) == 1
    words = (run_dir / "compare" / "summary.md").read_text()
    assert "The choice was made on validation patients." in words and chosen in words


def test_what_failed_once_and_was_done_since_is_not_told(tmp_path):
    """Steps and slides by their last state, of arms that are shown."""
    run_dir = write_archive(tmp_path / "run", arms={4: (0.62, 25.0), 1: (0.35, 2.0)}, n_patients=3)
    folder = run_dir / "4x" / "status"
    folder.mkdir()

    def said(state, slides):
        step = {"state": state, "reason": "", "slides": slides}
        (folder / "05_wsi_evaluation.json").write_text(json.dumps(step))
        section = report_page.Section("")
        report._failures(section, run_dir)
        return section

    lost = said("partly", [{"slide_id": "slide_02", "reason": "cannot be read"}])
    assert "slide_02" in str(lost.tables) and not lost.text
    assert said("done", []).text == ["Nothing failed in what is shown here."]
    # An earlier version's status.csv knows nothing better of a step that stands in status/ since.
    row = {"arm": "4x", "step": "05_wsi_evaluation", "slide_id": "", "status": "failed", "reason": "", "seconds": ""}
    pd.DataFrame([row, row | {"arm": "20x"}]).to_csv(run_dir / "status.csv", index=False)
    assert said("done", []).text == ["Nothing failed in what is shown here."]  # and there is no arm 20x


def test_the_notebook_says_before_the_intervals_what_they_do_not_hold():
    notebook = Path(report.__file__).parents[2] / "notebooks" / "compare_magnifications.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    at = next(n for n, text in enumerate(cells) if "figures.score_intervals(" in text)
    assert "nothing here says how another training (another seed, another machine) would change" in cells[at - 1]
    assert "another training (another seed, another machine)" in training_note()


def test_rows_of_both_thresholds_are_named(page):
    header, *rows = re.search(r"Scores at both thresholds\..*?<table>(.*?)</table>", page, re.S)[1].split("<tr>")[1:]
    assert "threshold by" in header
    names = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)[:2] for row in rows]
    assert names == [["1x", "fixed"], ["1x", "validation"], ["4x", "fixed"], ["4x", "validation"]]


def test_a_comparison_made_again_says_what_changed_since_its_notebook_and_stands_under_another_key(tmp_path, caplog):
    from tlskit.study import keys, ledger, status

    arm_dir, before = tmp_path / keys.COMPARE_ARM, {"4x/01_tiling": "a", "cascade/cascade": "b"}
    made = {"parameters": {"margin": 0.05}, "inputs": before}
    values = {"arm": keys.COMPARE_ARM, "step": keys.COMPARE, "key": "k", "slides": [], "by": "sweep", "products": {}}
    status.write_step(arm_dir, keys.COMPARE, values | {"state": "done", "ingredients": made})

    def again(inputs, **options):
        caplog.clear()
        ledger.Rebuilding(tmp_path, options, inputs).end()
        found = status.read_step(arm_dir, keys.COMPARE)
        return found["key"], found.get("reason", ""), caplog.text

    assert again(before, margin=0.05) == ("k", "", "")
    key, reason, said = again(before | {"cascade/cascade": "c"}, margin=0.05)
    assert key != "k" and reason == "made again by `tlskit compare` after cascade/cascade changed"
    assert "cascade/cascade changed" in said
    assert status.read_step(arm_dir, keys.COMPARE)["ingredients"]["inputs"]["cascade/cascade"] == "c"
    assert again(before | {"cascade/cascade": "c"}, margin=0.05) == (key, reason, ""), "nothing changed since"
    assert "with `margin` 0.1" in again({"4x/01_tiling": "a"}, margin=0.1)[1]
