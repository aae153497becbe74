"""Splits what names several data sets in one key, such as config.task.train or held_out."""

import glob
import re

from bert_jax.errors import UserError


def named_sets(spec: str, key: str) -> dict[str, str]:
    """Returns {name: spec} for "matched=a.tsv,mismatched=b.tsv", and {"": spec} for a spec without names.

    Args:
      spec: specs as data.tasks.records reads them, with or without names.
      key: the config key that has it, for messages.

    Raises:
      UserError: a name occurs twice, or only some sets have names.
    """
    sets: dict[str, str] = {}
    name = ""
    for item in filter(None, (item.strip() for item in spec.split(","))):
        match = re.match(r"([A-Za-z]\w*)=(?=.)", item)
        if match and not glob.glob(item):
            name, item = match[1], item[match.end() :]
            if name in sets:
                raise UserError(f"{key}={spec}: found {name} twice; expected each name once")
        sets[name] = f"{sets[name]},{item}" if name in sets else item
    if "" in sets and len(sets) > 1:
        raise UserError(f"{key}={spec}: found files with and without a name; expected NAME=FILE for each")
    return sets
