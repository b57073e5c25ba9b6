"""Records are complete, whole, and never replaced by weaker ones; those in the repository are checked."""

import copy
import json
import re

import pytest

from experiments import records

RECORD = dict.fromkeys(records.KEYS, "") | {
    "name": "try",
    "scale": "cpu",
    "runs": [{"seed": 0, "test_accuracy": 0.5}],
}


@pytest.mark.parametrize("name", records.names())
def test_the_records_of_the_book_are_complete(name):
    record = records.read(name)
    assert record["name"] == name
    program = f"benchmarks.{name.split('_')[1]}" if name.startswith("benchmark_") else f"experiments {name}"
    assert record["command"].startswith(f"python -m {program} --scale {record['scale']}")


def test_what_is_written_is_read(tmp_path):
    records.write(RECORD, folder=tmp_path)
    assert records.read("try", tmp_path) == RECORD
    assert records.names(tmp_path) == ["try"]


def test_a_weaker_record_does_not_replace_a_stronger_one(tmp_path):
    records.write(RECORD | {"scale": "full"}, folder=tmp_path)
    with pytest.raises(FileExistsError, match="'full' record, this one is 'cpu'; pass --force"):
        records.write(RECORD, folder=tmp_path)
    assert records.read("try", tmp_path)["scale"] == "full"
    records.write(RECORD, force=True, folder=tmp_path)
    assert records.read("try", tmp_path)["scale"] == "cpu"


def test_an_incomplete_record_is_refused(tmp_path):
    for key in records.KEYS:
        with pytest.raises(ValueError, match=f"lacks {key}"):
            records.write({k: v for k, v in RECORD.items() if k != key}, folder=tmp_path)
    for change, message in (({"runs": []}, "no runs"), ({"runs": [{}]}, "without its seed"),
                            ({"scale": "huge"}, "'huge'"),
                            ({"runs": [{"seed": 0, "val_accuracy": 83.0}]}, "fraction")):
        with pytest.raises(ValueError, match=message):
            records.write(copy.deepcopy(RECORD) | change, folder=tmp_path)
    assert records.names(tmp_path) == []


def test_an_unknown_record_names_the_nearest(tmp_path):
    records.write(RECORD, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no record 'tri'; near it: try"):
        records.read("tri", tmp_path)
    (tmp_path / "try.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        records.read("try", tmp_path)


def test_provenance_says_where_and_with_what():
    provenance = records.provenance()
    assert provenance["hardware"]["cores"] >= 1
    assert provenance["hardware"]["processor"]
    assert set(provenance["versions"]) == {"python", "torch", "torchvision", "numpy"}
    assert json.dumps(provenance)


def test_a_copy_without_git_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.provenance()["commit"] == "unknown"
    monkeypatch.setenv("VITLITE_COMMIT", "abc")
    assert records.provenance()["commit"] == "abc"


def test_a_table_has_as_many_cells_as_its_head():
    table = records.table(["a", "b", "c"], [["x", "y", "1"], ["x", "z", "2"]], left=2)
    assert table.splitlines() == ["| a | b | c |", "|:--|:--|--:|", "| x | y | 1 |", "| x | z | 2 |"]
    with pytest.raises(ValueError, match=r"row \['x'\] has 1 cells; expected 2, as in \['a', 'b'\]"):
        records.table(["a", "b"], [["x"]])


@pytest.mark.parametrize(("text", "message"), [
    ("[]", "record try.json holds a list; expected an object"), ("null", "try.json holds a NoneType"),
    ("7", "try.json holds a int"), ("{}", "record 'try.json' lacks name"), ("\udcff", "record try.json is not JSON"),
    ("[" * 100_000, "record try.json is not JSON"), (json.dumps(RECORD | {"runs": [3]}), "without its seed: 3"),
    (json.dumps(RECORD | {"runs": {"seed": 0}}), "has no runs"),
    (json.dumps(RECORD | {"name": "other"}), "record try.json has the name 'other'; rename the file"),
])
def test_a_damaged_record_is_named_wherever_it_is_met_and_can_be_made_again(tmp_path, text, message):
    path = tmp_path / "try.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for meet in (lambda: records.read("try", tmp_path), lambda: records.write(RECORD, folder=tmp_path)):
        with pytest.raises(ValueError, match=message):
            meet()
    records.write(RECORD, force=True, folder=tmp_path)
    assert records.read("try", tmp_path) == RECORD


@pytest.mark.parametrize("name", ["../try", "a/b", "", ".hidden", "/etc/passwd", "a\\b"])
def test_a_name_leads_to_no_other_folder(tmp_path, name):
    for meet in (lambda: records.read(name, tmp_path), lambda: records.write(RECORD | {"name": name}, folder=tmp_path)):
        with pytest.raises(ValueError, match="expected letters, digits"):
            meet()


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="record 'try' holds a number that is not finite"):
        records.write(RECORD | {"summary": {"mean": float("nan")}}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_name_stays_in_its_cell():
    table = records.table(["<script>x</script>", "n"], [["a|b\\|c", "<img src=x onerror=y>"], ["x < y", "one\ntwo"]])
    assert table.splitlines() == [r"| &lt;script>x&lt;/script> | n |", "|:--|--:|",
                                  r"| a\|b\|c | &lt;img src=x onerror=y> |", "| x < y | one two |"]


def test_the_readme_prints_what_the_records_say():
    trained, real = (records.read(name)["summary"] for name in ("train_cifar10", "real_weights"))
    plain = records.read("same_or_different")["summary"]["plain"]
    expected = [trained["plain"]["test_accuracy"], trained["conv"]["test_accuracy"],
                real["uses"]["probe_first"]["mean"], real["uses"]["scratch"]["mean"],
                plain["vit"]["muon"]["1000"]["mean"], plain["resnet"]["muon"]["1000"]["mean"]]
    readme = (records.ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\| (\S+) % \|", readme) == [f"{100 * share:.1f}" for share in expected]
