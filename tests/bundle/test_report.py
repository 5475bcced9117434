"""`run report`: one file that stands alone, with everything given and with almost nothing."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

HOSTILE = "<script>alert('x')</script> & \"q\""
VOID = {"meta", "link", "br", "img", "input", "hr"}
SECTIONS = [
    "verdict",
    "samples",
    "segmenters",
    "tables",
    "plane",
    "copies",
    "card",
    "provenance",
]


class Page(HTMLParser):
    """A page as a browser's parser sees it; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def of(self, tag, key):
        return [a.get(key) for t, a in self.attributes if t == tag]


@pytest.fixture(scope="module")
def site(tmp_path_factory, write_site):
    """`images/` and `labels/` of 2 volumes."""
    return write_site(tmp_path_factory.mktemp("site"), 2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, site):
    """Two slices without masks, in a file of a hostile name."""
    root = tmp_path_factory.mktemp("reference")
    volume = nib.load(site / "images/site0.nii.gz")
    slices = np.asarray(volume.dataobj)[..., :2] + 5
    nib.save(nib.Nifti1Image(slices, volume.affine), root / "<b>Smith & 'John'.nii.gz")
    return root


@pytest.fixture(scope="module")
def hostile_models(three_class_models, tmp_path_factory):
    """The bundle, with a class that has a hostile name."""
    folder = tmp_path_factory.mktemp("hostile") / "models"
    shutil.copytree(three_class_models, folder)
    record = json.loads((folder / "stage1.json").read_text())
    labels = dict(
        zip(["background", HOSTILE, "$x^{"], record["source"]["labels"].values(), strict=True)
    )
    record["source"]["labels"] = labels
    (folder / "stage1.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def given(
    hostile_models,
    three_class_dataset,
    site,
    reference,
    infer,
    segment,
    run_config,
    tmp_path_factory,
):
    """Everything that the page may show, as the other runs write it."""
    root = tmp_path_factory.mktemp("given")
    for seed, name in enumerate(("unaligned", "aligned")):
        infer(hostile_models, root / name, seed=seed, num_pairs=6)
    folders = {
        "model_dir": str(hostile_models),
        "reference_dir": str(reference),
        "target_dir": str(site),
    }
    evaluation = {
        "device": "cpu",
        "encoder": "random",
        "encoder_size": [32, 32],
        "draws": 4,
        "neighbours": 1,
        "pairs_dir": str(root / "aligned"),
        "unaligned_dir": str(root / "unaligned"),
        "dataset_dir": str(three_class_dataset),
        "output_dir": str(root / "evaluation"),
    }
    run_config("evaluate", "infer", "evaluate", evaluation | folders)
    for name, pairs in (("<i>real", None), ("pairs", str(root / "aligned"))):
        options = {"pairs_dir": pairs, "test_dir": str(site)}
        segment(hostile_models, three_class_dataset, root / "arms" / name, **options)
    (root / "audit").mkdir()
    audit = {"words": [f"copies: 0 of 6 pairs {HOSTILE}"], "pairs": ["Smith.png"]}
    (root / "audit/audit.json").write_text(json.dumps(audit))
    return folders | {
        "aligned_dir": str(hostile_models),
        "aligned_pairs": str(root / "aligned"),
        "unaligned_pairs": str(root / "unaligned"),
        "source_dir": str(three_class_dataset),
        "evaluation_dir": str(root / "evaluation"),
        "segment_dir": str(root / "arms"),
        "audit_dir": str(root / "audit"),
        "card": {"Name": HOSTILE},
    }


@pytest.fixture(scope="module")
def report(given, run_config, tmp_path_factory):
    """`report(only=None, **overrides)`: text of the page from `given`, or from those keys of it."""

    def call(only=None, **overrides):
        output = tmp_path_factory.mktemp("report") / "report.html"
        some = {k: v for k, v in given.items() if only is None or k in only}
        tiny = {"device": "cpu", "encoder": "random", "encoder_size": [32, 32]}
        paths = {"output": str(output)}
        run_config("report", "infer", "report", tiny | some | paths | overrides)
        assert [path.name for path in output.parent.iterdir()] == ["report.html"]
        return output.read_text()

    return call


@pytest.fixture(scope="module")
def full(report):
    return report()


@pytest.fixture(scope="module")
def least(report):
    return report(only=("model_dir", "aligned_pairs", "reference_dir"))


@pytest.fixture(params=["full", "least"])
def page(request):
    return Page(request.getfixturevalue(request.param))


def test_stands_alone(page):
    assert not {"script", "iframe", "object", "embed", "link", "audio", "video"} & set(page.tags)
    for _, attributes in page.attributes:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "srcset", "action", "poster") or key.endswith("href"):
                assert value.startswith(("#", "data:image/png;base64,"))
            if key == "style":
                assert "url(" not in value
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    for href in page.of("a", "href"):
        assert href[1:] in ids


def test_can_be_read_by_all(page):
    assert page.of("html", "lang") == ["en"]
    assert "width=device-width" in " ".join(filter(None, page.of("meta", "content")))
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    for tag, attributes in page.attributes:
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"].strip()
        if tag == "img":
            assert attributes["alt"].strip()
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert [i for i in page.of("section", "id") if i] == SECTIONS


def test_everything_given(full):
    page = Page(full)
    assert page.tags.count("svg") > 4 * 6  # samples, nearest pairs, charts
    assert "Difference in Dice" in page.words and "KID" in page.words
    assert "Not given" not in page.words
    assert page.words.count("yes : the tables were measured on") == 5
    assert "yes : the aligned pairs were drawn with the weights of the aligned" in page.words
    assert "not known : it was aligned to the references" in page.words
    assert "Holds real images" in page.words
    assert "began from the same noise" not in page.words  # their seeds are 0 and 1
    assert len(full) < 5_000_000


def test_verdict_is_that_of_the_scores(full, given):
    """The headline's figure, computed here from the scores' files."""
    means = []
    for name in ("pairs", "<i>real"):
        scores = json.loads((Path(given["segment_dir"]) / name / "scores.json").read_text())
        means.append(scores["dice"]["mean"])
    shown = f"a difference of {100 * (means[0] - means[1]):+.1f} points"
    assert shown in Page(full).words


def test_each_class_stands_on_the_first_screen(full, given):
    words = Page(full).words.split("Samples Evenly chosen")[0]
    scores = json.loads((Path(given["segment_dir"]) / "pairs/scores.json").read_text())
    for name in scores["classes"]:
        found = [image["dice"][name] for image in scores["images"].values()]
        mean = 100 * np.mean([value for value in found if value is not None])
        assert re.search(re.escape(name) + f" .*{mean:.1f} ", words)
    assert "HD95, pairs" in words and "Are real images copied?" in words


def test_the_answer_of_an_adaptation_is_the_pages(report, refused, tmp_path):
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps({"answer": "no_gap", "text": [f"No: {HOSTILE}.", "So it is."]}))
    assert "img" not in Page(report(verdict=str(path))).tags
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path.with_name("verdict.png"))
    page = Page(report(verdict=str(path)))
    assert page.tags.count("img") == 1 and page.of("section", "class")[0] == "verdict no_gap"
    assert "img" not in Page(report(verdict=str(path), real_images=False)).tags
    words = page.words
    assert f"Did the segmenter get better at the site? No: {HOSTILE}. So it is." in words
    assert "a difference of" not in words and "Difference in Dice" in words
    path.write_text(json.dumps({"answer": "perhaps", "text": ["Perhaps."]}))
    assert "says no answer" in refused(report, verdict=str(path))
    path.write_text(json.dumps({"answer": "worse"}))
    assert "no field 'text'; run adapt" in refused(report, verdict=str(path))


def test_only_the_place_of_the_page_is_written_to(report, given):
    """Another run may work in the bundle, and nothing may be written there."""
    with FileLock(Path(given["model_dir"]) / ".lock"):
        assert "</html>" in report()


def test_text_of_inputs_is_shown_and_not_obeyed(full):
    page = Page(full)
    assert page.words.count("<script>alert('x')</script>") >= 3  # class, card, audit
    assert "<i>real" in page.words and "i" not in page.tags and "b>Smith" not in page.words


def test_names_of_files_are_left_out_unless_asked_for(full, report):
    for name in ("Smith", "site0", "case0", "pair_0"):
        assert name not in full
    asked = report(file_names=True)
    assert "<b>Smith & 'John'.nii.gz[0]" in Page(asked).words and "case0" in asked


def test_paths_are_left_out(full, given):
    assert not [path for path in given.values() if isinstance(path, str) and path in full]


def test_what_is_missing_says_what_makes_it(least):
    words = Page(least).words
    for command in ("run evaluate", "run segment", "run infer", "run audit", "--source_dir"):
        assert command in words
    assert "cannot be known without labelled images of the site" in words


def test_real_images_can_be_left_out(full, report):
    """Not one picture of a real image remains: those of the pairs are all there is."""
    synthetic = report(real_images=False)
    pictures = set(Page(synthetic).of("image", "href"))
    sample = {"aligned 0,", "aligned 5,", "unaligned 0,", "unaligned 5,"}
    labels = " ".join(filter(None, Page(synthetic).of("svg", "aria-label")))
    assert all(name in labels for name in sample) and ", real image" not in labels
    assert len(pictures) == 12 and pictures < set(Page(full).of("image", "href"))
    assert "Holds synthetic images alone" in Page(synthetic).words


def test_same_inputs_same_bytes(full, report):
    assert report() == full


def test_bad_inputs_name_the_mend(report, refused, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    for key in ("aligned_pairs", "reference_dir", "source_dir", "target_dir"):
        assert "no such folder" in refused(report, **{key: nowhere})
    assert "run evaluate" in refused(report, evaluation_dir=nowhere)
    assert "run segment" in refused(report, segment_dir=nowhere)
    assert "no file" in refused(report, audit_dir=nowhere)
    assert "give text for one of Name" in refused(report, card={"Colour": "red"})
    assert "neither true nor false" in refused(report, real_images="no")
    (tmp_path / "evaluation.json").write_text('{"sets": {}}')
    assert "no field 'metrics'" in refused(report, evaluation_dir=str(tmp_path))


FRAME = """<iframe src="{url}" style="border:0;width:{width}px;height:900px"></iframe>"""
LISTEN = """<pre id="found"></pre><script>
addEventListener("message", e => {
  document.getElementById("found").textContent += e.data + "\\n";
});
</script>"""
TELL = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const d = document.documentElement, s = [...document.querySelectorAll("svg")];
  const small = s.filter(one => one.getBoundingClientRect().width < 30).length;
  const entries = performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:"));
  parent.postMessage([innerWidth, d.scrollWidth, s.length, small, entries.length].join(" "), "*");
});</script>"""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_in_a_browser(full, tmp_path):
    """No sideways scrolling on phone and desk, nothing fetched, a picture, a PDF."""

    def browse(*arguments):
        call = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        call += [f"--user-data-dir={tmp_path / 'profile'}", *arguments]
        return subprocess.run(call, capture_output=True, text=True, timeout=300).stdout

    path = tmp_path / "report.html"
    path.write_text(full)
    told = tmp_path / "told.html"
    assert "default-src 'none'" in full  # nothing is fetched and no script runs, but for the test
    scripted = full.replace("default-src 'none'", "default-src * 'unsafe-inline'")
    told.write_text(scripted.replace("</body>", TELL + "</body>"))
    widths = (360, 390, 768, 940, 1200)
    frames = [FRAME.format(url=told.as_uri(), width=width) for width in widths]
    (tmp_path / "frames.html").write_text(LISTEN + "".join(frames))
    dom = browse("--virtual-time-budget=20000", "--dump-dom", (tmp_path / "frames.html").as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S).group(1).split("\n")
    rows = sorted([int(n) for n in line.split()] for line in found if line)
    assert [row[0] for row in rows] == list(widths)
    for width, scrolled, pictures, small, fetched in rows:
        assert scrolled <= width, f"wider than the screen of {width} pixels"
        assert pictures > 24 and small == 0 and fetched == 0
    for width in (500, 1200):
        picture = tmp_path / f"{width}.png"
        browse(f"--screenshot={picture}", f"--window-size={width},3000", path.as_uri())
        shown = np.asarray(Image.open(picture).convert("RGB"))
        assert (
            shown.shape[:2] == (3000, width) and len(np.unique(shown.reshape(-1, 3), axis=0)) > 99
        )
    browse(f"--print-to-pdf={tmp_path / 'report.pdf'}", path.as_uri())
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", content)) > 2
