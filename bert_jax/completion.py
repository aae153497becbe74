"""Prints a script with which the shell completes commands, flags, recipes and keys.

    bert-jax completion bash > ~/.local/share/bash-completion/completions/bert-jax
    bert-jax completion zsh > ~/.zfunc/_bert-jax        (a folder of fpath)

The next shell reads it. For the shell at hand: source <(bert-jax completion bash). The script holds the lists of this
version: print it again after an update. It completes commands, flags, the choices of a flag, recipes after --config=,
keys after --config., their choices, experiments after --experiment=, and files everywhere else.
"""

import concurrent.futures
import os
import subprocess
import sys
from xml.etree import ElementTree

from bert_jax import cli, command, listing
from bert_jax.config.schema import closest
from bert_jax.errors import UserError

SHELLS = cli.POSITIONAL["completion"]
_KINDS = {"pretrain": "pretraining", "show-batch": "pretraining", "quickstart": "pretraining", "plan": "pretraining",
          "finetune": "finetuning"}  # fmt: skip

_BASH = """\
# Completion of bert-jax for bash; made by: bert-jax completion bash
declare -A _bert_jax_words=(
{words}
)
_bert_jax() {{
  local line=${{COMP_LINE:0:COMP_POINT}} IFS=$' \\t\\n'
  local -a typed=($line)
  [[ $line == *[[:space:]] ]] && typed+=("")
  local cur=${{typed[${{#typed[@]}}-1]}} prev=${{typed[${{#typed[@]}}-2]}} command=${{typed[1]}} flag= list= value
  if [[ $cur == --*=* ]]; then
    flag=${{cur%%=*}} value=${{cur#*=}} list=${{_bert_jax_words[$command ${{cur%%=*}}]}}
  elif (( ${{#typed[@]}} > 3 )) && [[ $cur != -* && $prev == --* && $prev != *=* && $prev != --help_keys ]]; then
    list=${{_bert_jax_words[$command $prev]}} value=$cur
    if [[ $list && $list != "True False" ]]; then flag=$prev; fi
  fi
  COMPREPLY=()
  if (( ${{#typed[@]}} == 2 )); then
    COMPREPLY=($(compgen -W "${{_bert_jax_words[commands]}}" -- "$cur"))
  elif [[ $flag ]]; then
    if [[ $list ]]; then COMPREPLY=($(compgen -W "$list" -- "$value")); fi
    if [[ ! $list || ! $COMPREPLY && " ${{_bert_jax_words[files]}} " == *" $flag "* ]]; then
      compopt -o filenames 2>/dev/null; IFS=$'\\n' COMPREPLY=($(compgen -f -- "$value"))
    fi
    [[ $COMP_WORDBREAKS == *=* || $cur != --*=* ]] || COMPREPLY=("${{COMPREPLY[@]/#/$flag=}}")
  elif [[ $cur == --config.* ]]; then
    compopt -o nospace 2>/dev/null
    COMPREPLY=($(compgen -W "${{_bert_jax_words[$command --config.]}}" -- "$cur"))
  elif [[ $cur == -* ]]; then
    compopt -o nospace 2>/dev/null
    COMPREPLY=($(compgen -W "${{_bert_jax_words[$command]}}" -- "$cur"))
  elif (( ${{#typed[@]}} == 3 )) && [[ ${{_bert_jax_words[$command verbs]}} ]]; then
    COMPREPLY=($(compgen -W "${{_bert_jax_words[$command verbs]}}" -- "$cur"))
  else
    compopt -o filenames 2>/dev/null; IFS=$'\\n' COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -F _bert_jax bert-jax
"""

_ZSH = """\
#compdef bert-jax
# Completion of bert-jax for zsh; made by: bert-jax completion zsh
typeset -gA _bert_jax_words=(
{words}
)
_bert_jax() {{
  local cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} command=${{words[2]}} list value
  if (( CURRENT > 3 )) && [[ $cur != -* && $prev == --* && $prev != *=* && $prev != --help_keys ]]; then
    value=${{_bert_jax_words[$command $prev]}}
    [[ $value == "True False" ]] && value=
  fi
  if (( CURRENT == 2 )); then
    compadd -- ${{=_bert_jax_words[commands]}}
  elif [[ $cur == --*=* ]]; then
    list=${{_bert_jax_words[$command ${{cur%%=*}}]}}
    compset -P '*='
    [[ -n $list ]] && compadd -- ${{=list}} && return
    [[ -z $list || " ${{_bert_jax_words[files]}} " == *" ${{cur%%=*}} "* ]] && _files
  elif [[ -n $value ]]; then
    compadd -- ${{=value}} && return
    [[ " ${{_bert_jax_words[files]}} " == *" $prev "* ]] && _files
  elif [[ $cur == --config.* ]]; then
    compadd -S '' -- ${{=_bert_jax_words[$command --config.]}}
  elif [[ $cur == -* ]]; then
    compadd -S '' -- ${{=_bert_jax_words[$command]}}
  elif (( CURRENT == 3 )) && [[ -n ${{_bert_jax_words[$command verbs]}} ]]; then
    compadd -- ${{=_bert_jax_words[$command verbs]}}
  else
    _files
  fi
}}
if [[ ${{funcstack[1]}} == _bert-jax ]]; then _bert_jax "$@"; else compdef _bert_jax bert-jax; fi
"""


def main(argv):
    shell = argv[1]
    if shell not in SHELLS:
        raise UserError(f"{shell}: no such shell; expected {' or '.join(SHELLS)}{closest(shell, SHELLS)}")
    print(script(shell), end="")


def script(shell: str) -> str:
    """Returns the completion script of a shell, "bash" or "zsh"."""
    table = words()
    if shell == "bash":
        return _BASH.format(words="\n".join(f'  ["{key}"]="{" ".join(value)}"' for key, value in table.items()))
    return _ZSH.format(words="\n".join(f'  "{key}" "{" ".join(value)}"' for key, value in table.items()))


def words() -> dict[str, list[str]]:
    """Returns the words to choose from, by place.

    The places are "commands", "COMMAND" (its flags), "COMMAND verbs", "COMMAND --config." (keys), "COMMAND --flag" and
    "COMMAND --config.KEY" (their values), and "files": flags whose value may also be a file.
    """
    commands: list[str] = [name.replace("_", "-") for name in (*cli.COMMANDS, *cli.EXPERIMENT_COMMANDS)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        flags = dict(zip(commands, pool.map(_flags, commands), strict=True))
    table: dict[str, list[str]] = {"commands": commands, "files": ["--config", "--experiment"]}
    for name, choices in flags.items():
        kind = _KINDS.get(name, "")
        table[name] = [f"--{flag}" if values is None else f"--{flag}=" for flag, values in choices.items()]
        table[name] += ["--help", *(["--config."] if kind else [])]
        table |= {f"{name} --{flag}": list(values) for flag, values in choices.items() if values}
        if kind:
            keys = listing.keys(kind)
            table[f"{name} --config"] = listing.recipe_names(kind)
            table[f"{name} --help_keys"] = sorted({key.partition(".")[0] for key in keys if "." in key})
            table[f"{name} --config."] = [f"--config.{key}=" for key in keys]
            for key, facts in keys.items():
                values = ("True", "False") if facts.type is bool else facts.choices
                if any(values):
                    table[f"{name} --config.{key}"] = [value for value in values if value]
    verbs = {f"{name} verbs": list(names) for name, names in cli.POSITIONAL.items()}
    verbs["recipes verbs"] += [name for kind in listing.KEYS for name in listing.recipe_names(kind)]
    return table | _named() | verbs


def _named():
    """Returns the values of flags that take a name of a list, or something else, and so are no flags with choices."""
    from bert_jax.data.preparation.sentences import MODES
    from bert_jax.data.preparation.sources import DOCUMENTS
    from bert_jax.planning import chips

    return {
        "launch --experiment": listing.experiment_names(),
        "plan --topology": [*chips.examples(), "all"],
        "prepare --documents": list(DOCUMENTS),
        "prepare --sentences": list(MODES),
    }


def _flags(name):
    """Returns the flags of a command with their choices, from its --helpxml: () for any value, None for a switch."""
    line = [sys.executable, "-m", cli.module_of(name) or name, "--helpxml"]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | _importable())
    if done.returncode:
        raise UserError(f"{name}: its flags cannot be listed: {done.stderr.strip().splitlines()[-1:]}")
    flags: dict[str, tuple[str, ...] | None] = {}
    for flag in ElementTree.fromstring(done.stdout).iter("flag"):
        if flag.findtext("key") == "yes":
            values = tuple(value.text or "" for value in flag.iter("enum_value"))
            flags[flag.findtext("name") or ""] = None if flag.findtext("type") == "bool" else values
    return flags


def _importable():
    """Returns the environment in which a process finds this package and the experiments, wherever it starts."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}


if __name__ == "__main__":
    command.run(main, positional="SHELL")
