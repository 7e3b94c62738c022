import hashlib
import json

import pytest

from worker.commands.verification import differences


@pytest.fixture
def manifest(tmp_path):
    results, rejects = b'id,note\n1,"two\nlines"\n2,\n', b"id,_line,_error,_detail\n3,4,Reject,no\n"
    outputs = []
    for name, content, rows in (("a-1.csv", results, 2), ("a-1.rejected.csv", rejects, 1)):
        (tmp_path / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        outputs.append({"name": name, "sha256": digest, "bytes": len(content), "rows": rows})
    path = tmp_path / "a-1.manifest.json"
    path.write_text(json.dumps({"rows_in": 4, "results": 2, "rejected": 1, "skipped": 1, "outputs": outputs}))
    return path


def test_an_untouched_outbox_is_as_its_manifest_says(manifest):
    assert list(differences(manifest)) == []


def test_a_changed_byte_is_seen_though_size_and_rows_are_the_same(manifest):
    results = manifest.with_name("a-1.csv")
    results.write_bytes(results.read_bytes().replace(b"1,", b"7,"))
    assert list(differences(manifest)) == ["a-1.csv has another SHA-256"]


def test_a_line_too_many_is_named_in_every_way(manifest):
    rejects = manifest.with_name("a-1.rejected.csv")
    rejects.write_bytes(rejects.read_bytes() + b"5,6,Reject,no\n")
    assert list(differences(manifest)) == [
        "a-1.rejected.csv has 52 bytes, not 38",
        "a-1.rejected.csv has another SHA-256",
        "a-1.rejected.csv has 2 records, not 1",
    ]


def test_a_missing_file_is_named(manifest):
    manifest.with_name("a-1.csv").unlink()
    assert list(differences(manifest)) == ["a-1.csv is missing"]


def test_counts_that_do_not_add_up_are_named(manifest):
    manifest.write_text(manifest.read_text().replace('"rows_in": 4', '"rows_in": 5'))
    assert list(differences(manifest)) == ["rows_in is 5, but results, rejected and skipped come to 4"]


def test_ndjson_is_counted_by_lines(tmp_path):
    content = b'{"resourceType":"Patient"}\n{"resourceType":"Patient"}\n'
    (tmp_path / "a-1.ndjson").write_bytes(content)
    output = {"name": "a-1.ndjson", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "rows": 2}
    path = tmp_path / "a-1.manifest.json"
    path.write_text(json.dumps({"rows_in": 2, "results": 2, "rejected": 0, "skipped": 0, "outputs": [output]}))
    assert list(differences(path)) == []


def test_a_field_of_any_length_is_part_of_one_record(tmp_path):
    content = b'id,note\n1,"' + 3 * 2**20 * b"x" + b' ""\n"\n2,"y\r\n\rz"\n'
    (tmp_path / "a-1.csv").write_bytes(content)
    output = {"name": "a-1.csv", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "rows": 2}
    path = tmp_path / "a-1.manifest.json"
    path.write_text(json.dumps({"rows_in": 2, "results": 2, "rejected": 0, "skipped": 0, "outputs": [output]}))
    assert list(differences(path)) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rows_in": 1}', "not JSON"])
def test_what_is_no_manifest_is_said_to_be_none(tmp_path, text):
    path = tmp_path / "a.manifest.json"
    path.write_text(text)
    assert list(differences(path)) == ["it is not a manifest of Longshore"]
