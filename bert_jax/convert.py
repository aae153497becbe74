"""Writes a model as a Hugging Face directory that transformers loads.

    python -m bert_jax.convert --model=MODEL --output=DIR [--push_to_hub=NAME [--private]]

The directory holds config.json, model.safetensors and the tokenizer's files, and the modules of sentence-transformers
if the model came from there. MODEL is the workdir of a run, a Hugging Face directory or a name on the hub. Pickled
weights (pytorch_model.bin) are read by this command alone, with torch's weights_only reader. For a run of replaced-
token detection, --part chooses which of the two models is written. The format has no place for two of DeBERTa's pre-
training heads (replaced tokens, enhanced mask decoder): then the encoder alone is written, with a message. If
no class of transformers combines the heads of a directory, such as a classifier and a next-sentence head, the heads of
the class that its config.json names are written, else its task's. A model that the format cannot express otherwise is
refused, with every reason. The model gets a model card, README.md, which for a run says what its files know; the
README.md of a directory is kept. --push_to_hub uploads what was written to a repository of the Hugging Face hub, in one
commit, as the account of `hf auth login` or HF_TOKEN; --output may then be left out. A README.md that the repository
already has is kept.
"""

import dataclasses
import os
import pathlib

from absl import flags

from bert_jax import command, files

_MODEL = flags.DEFINE_string(
    "model", None, "the workdir of a run, a Hugging Face directory, or a hub name", required=True
)
flags.DEFINE_alias("input", "model")  # the flag's name in earlier versions
_OUTPUT = flags.DEFINE_string("output", None, "the directory to write; new or empty")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "float16", "bfloat16"],
    "dtype of the written weights; default: as stored, which is float32 for a run",
)
_STEP = flags.DEFINE_string(
    "step", None, "for a workdir: step of the checkpoint, best, mean:K or ema:DECAY; default: the newest"
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "replace a model in --output whose files all have a successor; its README.md is kept"
)
_PART = flags.DEFINE_enum(
    "part",
    "discriminator",
    ["discriminator", "generator"],
    "for a run of replaced-token detection: which of its models to write",
)
_LAYERS = flags.DEFINE_integer(
    "layers", None, "number of the encoder's layers that are written, without heads; default: all, with them",
    lower_bound=1,
)  # fmt: skip
_PUSH_TO_HUB = flags.DEFINE_string(
    "push_to_hub", None, "upload the model to this repository of the Hugging Face hub: NAME or ACCOUNT/NAME"
)
_PRIVATE = flags.DEFINE_bool("private", False, "for --push_to_hub: whether a new repository is private")


def main(argv):
    del argv
    from bert_jax.errors import UserError
    from bert_jax.interop import hub

    if not _PUSH_TO_HUB.value:
        if _PRIVATE.value:
            raise UserError("--private: found no --push_to_hub; expected the name of a repository with it")
        if not _OUTPUT.value:
            raise UserError("--output: not given; expected the directory to write, or --push_to_hub=NAME")
        _convert(_OUTPUT.value)
        return
    repository = hub.check_upload(_PUSH_TO_HUB.value)
    with files.temporary_folder("bert_jax-") as scratch:
        directory = _OUTPUT.value or os.path.join(scratch, repository.rpartition("/")[2])
        _convert(directory, repository)
        address, keeps_card = hub.upload(directory, repository, _PRIVATE.value)
    print(f"{address}: uploaded" + (", its own README.md kept" if keeps_card else ""))


def _convert(output, repository=""):
    """Writes the model into the directory `output`; its card names the repository that it is loaded from."""
    from bert_jax.errors import UserError
    from bert_jax.interop import formats, heads, huggingface, model_card
    from bert_jax.runs import workdir
    from bert_jax.runs.models import open_model
    from bert_jax.runs.provenance import base_model_name, read_provenance

    huggingface.check_output(output, _OVERWRITE.value)
    name, step = workdir.name_and_step(_MODEL.value, _STEP.value)
    if workdir.holds_run(name):
        model = open_model(name, step, part=_PART.value)
    elif step is not None:
        raise UserError(f"--step={step}: {name} is no run's workdir; expected no --step")
    else:
        model, further = formats.reduce_to_class(huggingface.read(name, pickles=True))
        if further:
            words = " and ".join(f"the {heads.words(head)}" for head in further)
            print(f"{name}: no class of transformers has all of its heads; left out: {words}")
    if _LAYERS.value:
        model = formats.first_layers(model, _LAYERS.value, "--layers")
    left_out = formats.inexpressible_heads(model)
    if left_out:
        print(f"{name}: {model.family} has no name for {' and '.join(left_out)}; the encoder alone is written")
        model = formats.encoder_only(model)
    title = repository.rpartition("/")[2] or pathlib.Path(output).absolute().name
    if workdir.holds_run(name):
        provenance = read_provenance(name, model.step, step)
    else:
        provenance = model_card.Provenance(base_model=base_model_name(name))
    card = model_card.render(model, title, provenance, repository)
    if repository and model.origin and model.origin.model_card:  # a directory that an earlier call wrote
        own = model_card.renamed(model.origin.model_card, model, repository)
        model = dataclasses.replace(model, origin=dataclasses.replace(model.origin, model_card=own))
    huggingface.write(model, output, _DTYPE.value, card, _OVERWRITE.value)
    print(f"{_OUTPUT.value or repository}: {model.family}, {', '.join(_parts(model.model.spec))}")


def _parts(spec):
    """Returns the names of what was written: the encoder and its heads."""
    heads = {"masked-language head": spec.language_model, "next-sentence head": spec.next_sentence}
    heads |= {"sentence-order head": spec.sentence_order, "replaced-token head": spec.replaced_tokens}
    parts = [f"encoder of {spec.num_layers} layers", *(name for name, has_head in heads.items() if has_head)]
    return parts + ([f"{spec.task.name} of {spec.task.num_labels}"] if spec.task else [])


if __name__ == "__main__":
    command.run(main, outlives_output=True, likely=("model", "output"))
