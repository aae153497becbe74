"""Datasets that cannot be downloaded end in one clear error."""

import pytest

from bert_jax.data.preparation import sources
from bert_jax.errors import UserError


def test_tfds_gives_up_at_once_on_a_host_that_cannot_be_reached(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class UnreachableText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": dl_manager.download("https://no-such-host.invalid/text.txt")}

        def _generate_examples(self, path):
            raise NotImplementedError

    monkeypatch.setattr("urllib.request.getproxies", dict)
    attempts = []

    def refuse(address, *_):
        attempts.append(address)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(UserError) as caught:
        sources.plan("tfds:unreachable_text:train", sources.Options(data_dir=str(tmp_path)))
    assert attempts == [("no-such-host.invalid", 443)]  # tfds alone tries ten times, for minutes
    message = str(caught.value)
    assert message.startswith("--input=tfds:unreachable_text:train: not on disk, and no-such-host.invalid cannot be")
    assert "\n" not in message
