"""Writes golden_tokens.json: what transformers' tokenizers make of small vocabularies and awkward text.

    python tests/data/make_golden_tokens.py        (needs the parity requirements)
"""

import json
import pathlib
import tempfile

import transformers
from tokenizers import AddedToken

from tests.data.awkward import TEXTS, VOCABULARY, bpe_files

GOLDEN = pathlib.Path(__file__).with_name("golden_tokens.json")


def main():
    with tempfile.TemporaryDirectory() as folder:
        vocab = pathlib.Path(folder, "vocab.txt")
        vocab.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
        bpe_files(folder)
        mask = AddedToken("<mask>", lstrip=True, special=True)  # as in the published roberta-base
        tokenizers = {
            "uncased": transformers.BertTokenizerFast(str(vocab)),
            "cased": transformers.BertTokenizerFast(str(vocab), do_lower_case=False),
            "bpe": transformers.RobertaTokenizerFast(f"{folder}/vocab.json", f"{folder}/merges.txt", mask_token=mask),
        }
        golden = {}
        for name, tokenizer in tokenizers.items():
            for special in (False, True):
                encoded = tokenizer(TEXTS, add_special_tokens=False, split_special_tokens=not special)
                golden[f"{name} special={special}"] = encoded["input_ids"]
    lines = (f'"{name}": {json.dumps(rows)}' for name, rows in golden.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
