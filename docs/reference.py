"""Writes the tables of config keys and of recipes, from the schema in bert_jax/config/ and the files in configs/."""

MARKERS = {"<!-- table of keys -->": "keys", "<!-- table of recipes -->": "recipes"}


def filled(page: str) -> str:
    """Returns a page with its markers replaced by tables."""
    for marker, table in MARKERS.items():
        if marker in page:
            page = page.replace(marker, globals()[table]())
    return page


def keys() -> str:
    """Returns the roles of keys, and for each kind of run and each group a table of its keys."""
    from bert_jax.config.keys import FINETUNING, PRETRAINING
    from bert_jax.config.schema import ROLES

    parts = [
        "## Roles\n\n| role | what its keys decide |\n|---|---|",
        *(f"| {role} | {meaning} |" for role, meaning in ROLES.items()),
        "",
    ]
    for title, table in (("Pre-training", PRETRAINING), ("Fine-tuning", FINETUNING)):
        parts += [f"## {title}", ""]
        for group in dict.fromkeys(name.rpartition(".")[0] for name in table):
            parts += [f"### {title}: {f'`{group}`' if group else 'the run'}", ""]
            parts += ["| key | default | values | meaning |", "|---|---|---|---|"]
            parts += [_row(name, key) for name, key in table.items() if name.rpartition(".")[0] == group]
            parts.append("")
    return "\n".join(parts)


def _row(name, key):
    marks = [f"*{key.role}*"]
    marks += ["may change on resuming"] if key.resumable else []
    marks += ["may be set in a phase"] if key.in_phases else []
    empty = f" {_code(key.empty_value)} stands for {key.empty}." if key.empty else ""
    return f"| `{name}` | {_code(key.default)} | {_values(key)} | {key.doc}{empty} ({'; '.join(marks)}) |"


def _code(value):
    return f"`{value!r}`".replace("'", '"')


def _values(key):
    """Returns the values that a key takes, in words."""
    if key.choices:
        return ", ".join(f"`{choice}`" if choice else '`""`' for choice in key.choices)
    names = {bool: "`True`, `False`", int: "integer", float: "number", str: "text", tuple: "sequence"}
    bounds = key.bounds.removeprefix(key.noun).removeprefix(" of").strip()
    return names[key.type] + (f", {bounds}" if bounds else "")


def recipes() -> str:
    """Returns the table of pre-training recipes with their sizes."""
    from bert_jax import config as config_lib
    from bert_jax import recipes as recipes_lib

    columns = "recipe", "layers x width, heads", "vocabulary", "parameters", "steps", "rows", "tokens a row"
    rows = [f"| {' | '.join(columns)} |", "|---|---|---|---:|---:|---|---|"]
    for name in recipes_lib.recipe_names():
        if recipes_lib.is_finetuning(name):
            continue
        config = config_lib.load_recipe(name)
        model, phases = config.model, config_lib.phases(config)
        size, vocabulary = f"{model.num_layers} x {model.hidden_size}, {model.num_heads}", "the corpus's"
        parameters = recipes_lib.parameter_words(config)
        if config.model_from_init:
            size = vocabulary = parameters = "the model's"
        if model.vocab_size:
            vocabulary, parameters = f"{model.vocab_size:,}", f"{recipes_lib.count(config, model.vocab_size):,}"
        batches = _range({phase.data.batch_size for phase in phases})
        lengths = _range({phase.data.sequence_length for phase in phases})
        cells = f"[`{name}`](../configs/{name}.py)", size, vocabulary, parameters, f"{config_lib.num_steps(config):,}"
        rows.append(f"| {' | '.join((*cells, batches, lengths))} |")
    return "\n".join(rows)


def _range(numbers):
    """Returns the numbers in words: one, two, or from the lowest to the highest."""
    ordered = [f"{number:,}" for number in sorted(numbers)]
    return " and ".join(ordered) if len(ordered) < 3 else f"{ordered[0]} to {ordered[-1]}"
