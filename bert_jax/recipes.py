"""Lists the recipes that --config takes by name, with their sizes, or shows one of them.

    bert-jax recipes [pretraining|finetuning|NAME]

NAME, such as bert_base, shows that recipe's line, its file and what it says of itself.
Parameters are counted by building each model's shapes, with the heads that the recipe trains and the published
vocabulary. Where the vocabulary is the corpus's own, "+ N a token" is what each of its entries adds. The generator of
replaced-token detection is not counted.
"""

from collections.abc import Iterator, Sequence

from bert_jax import cli, command
from bert_jax import config as config_lib
from bert_jax.config.recipes import is_finetuning, nearest_recipe, recipe_names, recipe_path
from bert_jax.errors import UserError, command_line
from bert_jax.listing import description, docstring

KINDS = cli.POSITIONAL["recipes"]


def main(argv):
    if argv[1:] and argv[1] not in KINDS:
        print("\n".join(recipe_lines(argv[1])))
        return
    kinds = argv[1:] or list(KINDS)
    for kind in kinds:
        lines = pretraining_lines() if kind == "pretraining" else finetuning_lines()
        for line in lines:
            print(line, flush=True)
        if kind != kinds[-1]:
            print()


def recipe_lines(name: str) -> list[str]:
    """Returns what is shown of one recipe: its table of one line, its file, and its docstring.

    Args:
      name: a recipe's name, as recipe_names() has it, or its path below configs/.

    Raises:
      UserError: there is no such recipe; the message names the closest recipe or kind.
    """
    name = name.removeprefix("configs/").removesuffix(".py")
    if name not in recipe_names():
        near = config_lib.closest(name, KINDS) or nearest_recipe(name)
        raise UserError(f"{name}: no such recipe; expected {', '.join(KINDS)} or the name of a recipe{near}")
    table = finetuning_lines([name]) if is_finetuning(name) else pretraining_lines([name])
    path = recipe_path(name)
    return [*table, "", f"{path}:", "", docstring(name)]


def pretraining_lines(names: Sequence[str] = ()) -> Iterator[str]:
    """Yields the table of pre-training recipes line by line: name, parameters, layers x hidden size, description.

    `names` are the recipes to list; () for all.
    """
    yield f"Pre-training: {command_line('pretrain')} --config=NAME"
    yield f"  {'NAME':<22}{'PARAMETERS':<20}{'LAYERS':<12}DESCRIPTION"
    for name in names or recipe_names():
        if not is_finetuning(name):
            config = config_lib.load_recipe(name)
            size = f"{config.model.num_layers} x {config.model.hidden_size}"
            parameters = parameter_words(config)
            if config.model_from_init:
                size = parameters = "MODEL's"
            yield f"  {name:<22}{parameters:<20}{size:<12}{description(name)}"


def finetuning_lines(names: Sequence[str] = ()) -> Iterator[str]:
    """Yields the table of fine-tuning recipes line by line: name, task, description; `names` as there."""
    yield f"Fine-tuning: {command_line('finetune')} --config=NAME --config.init_from=MODEL"
    yield f"  {'NAME':<22}{'TASK':<26}DESCRIPTION"
    for name in names or recipe_names():
        if is_finetuning(name):
            config = config_lib.load_recipe(name)
            yield f"  {name:<22}{config.task.name:<26}{description(name)}"


def parameter_words(config) -> str:
    """Returns the size of a pre-training recipe's model, such as "110.1M", or "0.5M + 129 a token"."""
    if config.model.vocab_size:
        return millions(count(config, config.model.vocab_size))
    smaller, larger = count(config, 1024), count(config, 1025)
    return f"{millions(smaller - 1024 * (larger - smaller))} + {larger - smaller} a token"


def count(config, vocab_size: int) -> int:
    """Returns the number of parameters of a pre-training recipe's model, without allocating any."""
    from bert_jax import model as model_lib
    from bert_jax import objectives

    model = model_lib.build(config.model, vocab_size, **objectives.heads(config.objective), platform="cpu")
    return model_lib.parameter_count(model.shapes())


def millions(number: int) -> str:
    """Returns a count in millions with one decimal, such as "110.1M"."""
    return f"{number / 1e6:,.1f}M"


if __name__ == "__main__":
    command.run(main, positional="[KIND|NAME]")
