"""The command line, evaluation, report files and the instruction model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.peers import shared_data
from training.mining.__main__ import main
from training.mining.concepts import CT_RATE, concepts
from training.mining.evaluate import halves, label_scores, macro_f1, read_truth, reference_score
from training.mining.instruct import answers, by_model, question
from training.mining.organ_sentences import organ_sentences
from training.mining.reports import read_reports

NAMES = [c.name for c in concepts(CT_RATE)]

# Images that the real sentences name, by report: our own count over ct_clip/val.csv and dragon/english.
# "-" where no series is named.
REAL_CHEST = {
    "val_41": "-/109 -/246 -/284 -/287",
    "val_83": "-/48 -/60 -/74",
    "val_104": "2/467 2/303 2/87 2/177 2/308",
    "val_111": "2/177",
    "val_139": "2/140",
}
RECIST = "8/34 3/38 3/28 8/104 4/168 4/172 9/101 7/123 11/159 8/173 11/86 11/189 3/86 9/193"
REAL_DRAGON = {
    "005": RECIST,
    "007": "5/456",
    "016": RECIST,
    "023": "5/456",
    "024": RECIST,
    "026": "-/75 -/90",
}


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def labelled(name: str, text: str, *present: str) -> dict[str, str]:
    return {"AccessionNo": name, "report_text": text} | {n: str(int(n in present)) for n in NAMES}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    rows = [
        labelled("a", "Mild emphysema. Cyst of the liver (3/45).", "Emphysema", "Hiatal hernia"),
        labelled("b", "No emphysema. Cardiomegaly.", "Emphysema"),
        labelled("c", ""),
    ]
    return write_csv(tmp_path / "reports.csv", rows)


def test_evaluate_prints_the_macro_f1_last(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(reports), "--halves"])
    # Emphysema: one found, one missed; hiatal hernia missed; cardiomegaly false; the others do not occur.
    assert capsys.readouterr().out.splitlines()[-1] == f"macro F1 {(2 / 3 + 0 + 0) / 3:.4f}"
    scores = {s.name: s for s in label_scores(read_truth(reports))}
    emphysema, hernia = scores["Emphysema"], scores["Hiatal hernia"]
    assert (emphysema.true, emphysema.false, emphysema.missed, emphysema.absent) == (1, 0, 1, 1)
    assert (hernia.missed, hernia.unknown, hernia.recall) == (1, 1, 0.0)
    assert not scores["Bronchiectasis"].occurs


def test_evaluate_counts_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"sentence": "Nodule (series 3, image 45) and cyst (series 3, image 50).", "references": "3/45 3/51"},
        {"sentence": "Nodule on image 7.", "references": "-/7"},
        {"sentence": "Nodule of 3/5 mm.", "references": ""},
    ]
    main(["evaluate", str(write_csv(tmp_path / "r.csv", rows))])
    assert capsys.readouterr().out.splitlines()[-1] == "precision 0.6667 recall 0.6667"
    with pytest.raises(ValueError, match="three"):
        reference_score([{"sentence": "", "references": "three"}])


def test_labels_and_their_evidence(reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, evidence = tmp_path / "labels.csv", tmp_path / "evidence.json"
    main(["labels", str(reports), "--out", str(out), "--evidence", str(evidence)])
    first, second = list(csv.DictReader(out.open(encoding="utf-8")))
    assert (first["report"], first["Emphysema"], first["Cardiomegaly"]) == ("a", "1", "-1")
    assert (second["Emphysema"], second["Cardiomegaly"]) == ("0", "1")
    read = json.loads(evidence.read_text(encoding="utf-8"))
    assert read["b"][0]["evidence"] == ["Cardiomegaly."]
    assert "3 reports, 1 of them empty and left out: c" in capsys.readouterr().err


def test_sentences_references_and_dictionary(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sentences", str(reports)])
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["method"] == {"organs_by": "rules"}
    assert [s["organs"] for s in first["sentences"]] == [["lung"], ["liver"]]
    main(["references", str(reports)])
    found = json.loads(capsys.readouterr().out)
    assert found["sentences"][0]["references"][0]["images"] == [45]
    out = tmp_path / "abnormality.csv"
    main(["dictionary", str(reports), "--least", "1", "--out", str(out)])
    assert out.read_text(encoding="utf-8").startswith("name,organ,tumour,")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": "1"}, "report_text"),
        (labelled("a", "", "Emphysema") | {"Emphysema": "2"}, "needed is 0 or 1"),
        (labelled("a", "Normal."), "nothing can be measured"),
    ],
)
def test_a_truth_that_is_none_is_named(
    row: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(write_csv(tmp_path / "x.csv", [row]))])
    assert message in capsys.readouterr().err


def test_report_files(tmp_path: Path) -> None:
    row = {
        "VolumeName": "valid_1_a_1.nii.gz",
        "ClinicalInformation_EN": "Cough",
        "Technique_EN": "Not given.",
        "Findings_EN": "Normal lungs.",
        "Impressions_EN": "Normal.",
    }
    (report,) = read_reports(write_csv(tmp_path / "ct_rate.csv", [row]))
    assert report.text == "CLINICAL INFORMATION:\nCough\nFINDINGS:\nNormal lungs.\nIMPRESSION:\nNormal."
    merlin = write_csv(tmp_path / "merlin.csv", [{"study id": "1", "Findings": "Cyst.", "Split": "test"}])
    assert next(read_reports(merlin)).text == "Cyst."
    plain = write_csv(tmp_path / "plain.csv", [{"image": "x.nii", "report": "Cyst."}])
    assert next(read_reports(plain, ("image", "report"))).name == "x.nii"
    with pytest.raises(ValueError, match="--columns"):
        next(read_reports(plain))
    with pytest.raises(ValueError, match="no column 'text'"):
        next(read_reports(plain, ("image", "text")))
    (tmp_path / "one.txt").write_text("Cyst.", encoding="utf-8")
    assert [r.name for r in read_reports(tmp_path)] == ["one"]
    assert next(read_reports(tmp_path / "one.txt")).text == "Cyst."
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        next(read_reports(tmp_path / "empty"))


def test_what_a_model_answers_counts_only_where_it_names_organs() -> None:
    mined = organ_sentences("A cyst of the liver. Something in the belly. The spleen is normal.")
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return "1: liver, kidneys\n2: belly\n3) none\n9: liver"

    decided = by_model(mined, ask)
    assert [(s.organs, s.decision) for s in decided] == [
        (("liver", "kidneys"), "model"),
        (mined[1].organs, mined[1].decision),
        ((), "model"),
    ]
    assert asked == [question([s.text for s in mined])]
    assert answers("nonsense", 3) == {}


def test_a_real_local_model_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny causal model with random weights, in a transformers folder: a real one's path, end to end."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path / "tiny"
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "1": 1, ":": 2, "liver": 3}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=1, n_positions=1024)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    report = tmp_path / "report.txt"
    report.write_text("A cyst of the liver.", encoding="utf-8")
    main(["sentences", str(report), "--model", str(folder)])
    record = json.loads(capsys.readouterr().out)
    assert record["method"]["organs_by"] == "model"
    assert record["method"]["name"] == "tiny"
    assert len(record["method"]["digest"]) == 16
    assert record["sentences"][0]["decision"] in {"model", "named"}
    with pytest.raises(SystemExit):
        main(["sentences", str(report), "--model", str(tmp_path)])
    assert "config.json" in capsys.readouterr().err


def test_labels_of_real_reports() -> None:
    rows = read_truth(shared_data("report_text", "ct_clip", "val.csv"))
    for half in halves(rows).values():
        assert len(half) > 90
        assert macro_f1(label_scores(half)) >= 0.75


def test_references_of_real_reports() -> None:
    rows = []
    for row in read_truth(shared_data("report_text", "ct_clip", "val.csv")):
        rows.append({"sentence": row["report_text"], "references": REAL_CHEST.get(row["AccessionNo"], "")})
    for file in sorted(shared_data("report_text", "dragon", "english").glob("Task*.md")):
        text = file.read_text(encoding="utf-8")
        rows.append({"sentence": text, "references": REAL_DRAGON.get(file.name[4:7], "")})
    score = reference_score(rows)
    assert score.true + score.missed == sum(len(r["references"].split()) for r in rows)
    assert score.precision >= 0.99
    assert score.recall >= 0.90
