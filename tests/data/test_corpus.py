"""The built-in corpus."""

from __future__ import annotations

from llmcore.data.corpus import standard_library_documents, standard_library_files
from llmcore.data.readers import read_documents


def test_files_are_sorted_and_without_tests():
    names = [name for name, _ in standard_library_files()]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert "stdlib/json/decoder.py" in names and "stdlib/argparse.py" in names
    assert not [name for name in names if "/test/" in name or "/tests/" in name or "site-packages" in name]


def test_documents_are_the_sources():
    import json.decoder

    documents = {document.source: document.text for document in standard_library_documents()}
    with open(json.decoder.__file__, encoding="utf-8") as file:
        assert documents["stdlib/json/decoder.py"] == file.read()
    assert sum(map(len, documents.values())) > 3_000_000
    assert next(read_documents(["stdlib"])).source in documents
