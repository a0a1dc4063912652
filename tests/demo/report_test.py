"""report_test.py: table, page and verdict of the demo's report on made-up answers and metrics. chrF itself is sacrebleu's; a stand-in counts here."""
import contextlib
import html.parser
import io
import json
import math
import re
import sys
import tempfile
import types
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts/nano"))
stand_in = types.ModuleType("sacrebleu")
stand_in.corpus_chrf = lambda predictions, references: types.SimpleNamespace(score=100 * sum(p == r for p, r in zip(predictions, references[0])) / len(predictions))
sys.modules["sacrebleu"] = stand_in
import corpus
import report
from curves import chart, series, smooth, ticks
from records import answer_of, read_jsonl, write_jsonl
from scores import TASKS, guesses, score


class Outline(html.parser.HTMLParser):
    """Tags that are opened and closed in order, and every address the page names."""

    VOID = {"meta", "img", "line", "circle", "polyline", "br", "i", "u"}

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.addresses, self.counts = [], [], [], {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")


def make_outcome(root, wrong_every=4, silent=()):
    """Answers of which each wrong_every-th is wrong; tasks in `silent` are all wrong."""
    for path in sorted((root / "corpus").glob("heldout-*.jsonl")):
        task, rows = path.stem[len("heldout-"):], read_jsonl(path)
        for kind in ("trained", "untrained"):
            texts = [answer_of(row) if kind == "trained" and task not in silent and i % wrong_every else "<b>&nonsense" for i, row in enumerate(rows)]
            write_jsonl(root / f"predictions/{kind}/{task}.jsonl", [{"id": row["id"], "text": t} for row, t in zip(rows, texts)])
    for stage in report.STAGES:
        rows = [{"step": s, "loss": 4 * math.exp(-s / 100), "loss_image": 3.0, "lr": 0.1} for s in range(10, 400, 10)] + [{"step": 200, "validation_loss": 1.5}]
        write_jsonl(root / stage / "metrics.jsonl", rows)
    (root / "timings.tsv").write_text("corpus\t17.0\nbackbone\t130.5\n")


def run(root):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = report.make_report(root)
    return code, out.getvalue(), err.getvalue()


class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = Path(cls.folder.name)
        corpus.make_corpus(cls.root / "corpus", 0.1, log=lambda _: None)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_good_outcome(self):
        make_outcome(self.root)
        code, out, err = run(self.root)
        self.assertEqual((code, err), (0, ""))
        scores = json.loads((self.root / "scores.json").read_text())
        self.assertEqual(set(scores), set(TASKS))
        rows = scores["clips"]["rows"]
        self.assertAlmostEqual(scores["clips"]["trained"]["exact"], 1 - math.ceil(rows / 4) / rows)
        self.assertEqual(scores["clips"]["untrained"]["exact"], 0)
        self.assertNotIn("untrained", scores["text_order"])
        for what, *_ in TASKS.values():
            self.assertIn(what, out)

    def test_page_is_whole_and_refers_to_nothing_outside(self):
        make_outcome(self.root)
        run(self.root)
        text = (self.root / "report.html").read_text()
        outline = Outline()
        outline.feed(text)
        self.assertEqual((outline.faults, outline.open), ([], []))
        self.assertTrue(outline.addresses)
        self.assertTrue(all(a.startswith("data:") for a in outline.addresses))
        self.assertFalse(re.search(r"https?://", text))
        self.assertGreaterEqual(min(outline.counts[t] for t in ("img", "audio", "video")), 6)
        self.assertEqual(outline.counts["svg"], 4)
        self.assertIn("&lt;b&gt;&amp;nonsense", text)
        self.assertNotIn("<b>&nonsense", text)
        self.assertLess(len(text), 5e6)

    def test_modality_at_chance_fails_by_name(self):
        make_outcome(self.root, silent=("speech",))
        code, _, err = run(self.root)
        self.assertEqual(code, 1)
        self.assertRegex(err, r"^report: speech: 0\.0 % exact is below 5 times chance \(7\.81 %\)\n$")

    def test_missing_answers_are_named(self):
        make_outcome(self.root)
        path = self.root / "predictions/trained/clips.jsonl"
        path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
        with self.assertRaisesRegex(ValueError, "clips.jsonl: no answer for 1 of .* heldout-clips-00000"):
            report.gather(self.root)

    def test_answer_without_text_is_an_error(self):
        make_outcome(self.root)
        (self.root / "predictions/trained/clips.jsonl").write_text('{"id": "heldout-clips-00000"}\n')
        with self.assertRaisesRegex(ValueError, "without id and text"):
            report.gather(self.root)

    def test_guesses_are_near_chance(self):
        names = [{"en": f"name{i}"} for i in range(64)]
        rows = [{"lang": "en", "concepts": [i % 64], "messages": [{"parts": [f"name{i % 64}"]}]} for i in range(6400)]
        reached = score(guesses(rows, names), [answer_of(r) for r in rows]).exact
        self.assertLess(abs(reached - 1 / 64), 0.006)

    def test_score_wants_as_many_answers_as_references(self):
        with self.assertRaises(ValueError):
            score(["a"], ["a", "b"])


class CurvesTest(unittest.TestCase):
    def test_ticks_are_round_and_inside(self):
        self.assertEqual(ticks(0, 4.2), [0, 1, 2, 3, 4])
        self.assertEqual(ticks(0, 1330), [0, 500, 1000])
        self.assertEqual(ticks(2, 2), [2])

    def test_series_takes_the_last_of_a_step_and_no_nan(self):
        rows = [{"step": 2, "loss": 5.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 4.0}, {"loss": 1.0}, {"step": 3, "loss": True}]
        self.assertEqual(series(rows, "loss"), [(2, 4.0)])

    def test_smooth_keeps_a_constant(self):
        for _, value in smooth([(i, 2.5) for i in range(20)]):
            self.assertAlmostEqual(value, 2.5)

    def test_chart_of_nothing_says_so(self):
        self.assertIn("no metrics", chart("x", [("loss", "red", [], False)]))

    def test_chart_stays_inside_its_frame(self):
        drawn = chart("x", [("loss", "red", [(1, 9.0), (50, 0.1)], False)])
        points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', drawn).group(1).split()]
        self.assertTrue(all(0 <= x <= 420 and 0 <= y <= 220 for x, y in points))


if __name__ == "__main__":
    unittest.main()
