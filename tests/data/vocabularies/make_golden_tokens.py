"""Writes golden_tokens.json: what transformers' tokenizers make of small vocabularies and awkward text.

python -m tests.data.vocabularies.make_golden_tokens        (needs the parity requirements)
"""

import json
import pathlib
import tempfile

import transformers
from tokenizers import AddedToken

from experiments.parity import vocabularies
from tests.data.awkward import PAIRS, TEXTS, VOCABULARY, bpe_files

GOLDEN = pathlib.Path(__file__).with_name("golden_tokens.json")


def main():
    golden = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
        vocab = str(folder / "vocab.txt")
        bpe_files(folder)
        mask = AddedToken("<mask>", lstrip=True, special=True)  # as in the published roberta-base
        tokenizers = {
            "uncased": transformers.BertTokenizerFast(vocab),
            "cased": transformers.BertTokenizerFast(vocab, do_lower_case=False),
            "bpe": transformers.RobertaTokenizerFast(f"{folder}/vocab.json", f"{folder}/merges.txt", mask_token=mask),
        }
        for name, tokenizer in tokenizers.items():
            for special in (False, True):
                encoded = tokenizer(TEXTS, add_special_tokens=False, split_special_tokens=not special)
                golden[f"{name} special={special}"] = encoded["input_ids"]
        for name, directory in vocabularies.written(folder):
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            rows = [tokenizer(*texts, return_token_type_ids=True) for texts in PAIRS]
            golden[f"written {name}"] = [[row["input_ids"], row["token_type_ids"]] for row in rows]
    lines = (f'"{name}": {json.dumps(rows)}' for name, rows in golden.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
