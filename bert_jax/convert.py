"""python -m bert_jax.convert --input=MODEL --output=DIR

Writes a model as a Hugging Face directory: config.json, model.safetensors and the tokenizer's files, which
transformers loads, and sentence-transformers where the model came from there. MODEL is a run's workdir, a Hugging Face
directory or a name on the hub. Weights in a pickle (pytorch_model.bin) are read here alone, by torch's safe reader.
Of a run of replaced-token detection either of its models is written. Of DeBERTa's pre-training heads the format knows
neither that for replaced tokens nor the enhanced mask decoder: the encoder alone is written then, and said so. Whatever
else the format cannot say is refused, with every reason.
"""

from absl import flags

from bert_jax import command

_INPUT = flags.DEFINE_string("input", None, "a run's workdir, a Hugging Face directory, or a hub name", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the directory to write; new or empty", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "float16", "bfloat16"], "of the weights; default: as stored, or a run's float32"
)
_STEP = flags.DEFINE_string("step", None, "of a workdir: the step of a checkpoint, or best; default: see open_model")
_PART = flags.DEFINE_enum(
    "part", "discriminator", ["discriminator", "generator"], "of a run of replaced-token detection: which model"
)


def main(argv):
    del argv
    from bert_jax.errors import UserError
    from bert_jax.interop import formats, huggingface
    from bert_jax.runs import workdir
    from bert_jax.runs.models import open_model

    name, step = _INPUT.value, _STEP.value
    if workdir.holds_run(name):
        if step and step != "best" and not step.isdecimal():
            raise UserError(f"--step={step}: expected the number of a step, or best")
        model = open_model(name, int(step) if step and step.isdecimal() else step, part=_PART.value)
    elif step:
        raise UserError(f"--step={step}: {name} is no run's workdir; expected no --step")
    else:
        model = huggingface.read(name, pickles=True)
    left_out = formats.inexpressible_heads(model)
    if left_out:
        print(f"{name}: {model.family} has no name for {' and '.join(left_out)}; the encoder alone is written")
        model = formats.encoder_only(model)
    huggingface.write(model, _OUTPUT.value, _DTYPE.value)
    print(f"{_OUTPUT.value}: {model.family}, {', '.join(_parts(model.model.spec))}")


def _parts(spec):
    """What was written, in words."""
    heads = {"masked-language head": spec.language_model, "next-sentence head": spec.next_sentence}
    heads |= {"sentence-order head": spec.sentence_order, "replaced-token head": spec.replaced_tokens}
    parts = [f"encoder of {spec.num_layers} layers", *(name for name, there in heads.items() if there)]
    return parts + ([f"{spec.task.name} of {spec.task.num_labels}"] if spec.task else [])


if __name__ == "__main__":
    command.run(main)
