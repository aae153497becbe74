"""The command on a healthy run: what it says, and that it changes nothing."""

import json
import subprocess
import sys

from tests.diagnosis.conftest import findings, serious


def test_a_healthy_run(healthy):
    by_name, text = findings(healthy)
    assert not serious(by_name)
    assert "nothing wrong found: held-out loss " in text
    for words in (
        "under the unigram baseline of 3.7",
        "unknown tokens 0.0 %",
        "duplicate documents 0.0 %",
        "padding 2",
    ):
        assert words in text.replace("\n", " ")


def test_the_command(healthy, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in healthy.rglob("*")}
    command = [sys.executable, "-X", "importtime", "-m", "bert_jax.doctor", str(healthy)]
    done = subprocess.run([*command, f"--output={tmp_path / 'x.json'}"], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing wrong found" in done.stdout
    assert " jax" not in {line.rpartition("|")[2].rstrip() for line in done.stderr.splitlines()}
    assert isinstance(json.loads((tmp_path / "x.json").read_text()), list)
    for name in ("-", "/dev/stdout"):
        done = subprocess.run([*command[:1], *command[3:], f"--output={name}"], capture_output=True, text=True)
        findings, end = json.JSONDecoder().raw_decode(done.stdout)
        assert findings == json.loads((tmp_path / "x.json").read_text())
        assert ("nothing wrong found" in done.stdout[end:]) == (name != "-")
    assert before == {path: path.stat().st_mtime_ns for path in healthy.rglob("*")}
    done = subprocess.run([*command[:1], *command[3:5], f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 2 and "no run there" in done.stderr
