"""The documentation that ships with Python is read as prose."""

from bert_jax.data.preparation import python_docs


def test_python_docs_are_prose():
    paths = python_docs.paths()
    assert paths == python_docs.paths()
    assert len(paths) > 200
    some = [paths[0], *(path for path in paths if path.endswith(("argparse.py", "heapq.py", "logging/__init__.py")))]
    text, count = [], 0
    for path in some:
        for paragraph in python_docs.read(path):
            if paragraph is None:
                count += 1
            else:
                text.append(" ".join(paragraph))
    assert count > 50
    assert sum(map(len, text)) > 200_000
    assert not any(">>>" in paragraph or "::=" in paragraph for paragraph in text)
    assert any(paragraph.startswith("The heap queue algorithm") or "priority queue" in paragraph for paragraph in text)
