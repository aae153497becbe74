"""Makes golden_families.npz: tiny random models of transformers, their outputs for a batch, and their gradients.

Run where torch and transformers are installed:  python -m tests.interop.make_golden_families
"""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from bert_jax.interop import huggingface, tensors
from experiments.parity import models, random_models

PATH = pathlib.Path(__file__).parent / "golden_families.npz"
SIZES = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 12, "vocab_size": 19,
         "max_position_embeddings": 13, "pad_token_id": 0}  # fmt: skip
_SPECIAL = {"bos_token_id": 2, "eos_token_id": 3}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
# The class: its config beside the sizes.
MODELS = {
    "DistilBertForMaskedLM": {},
    "AlbertForPreTraining": _SPECIAL | {"embedding_size": 6, "num_hidden_groups": 1, "inner_group_num": 2},
    "ElectraForPreTraining": {"embedding_size": 6},
    "ElectraForMaskedLM": {"embedding_size": 6},
    "DebertaForMaskedLM": _RELATIVE,
    "DebertaV2ForMaskedLM": _RELATIVE | {"position_buckets": 4, "share_att_key": True, "norm_rel_ebd": "layer_norm",
                                         "conv_kernel_size": 3, "legacy": False},
    "ModernBertForMaskedLM": _SPECIAL | {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
    "EuroBertForMaskedLM": _SPECIAL | {"num_key_value_heads": 1, "mask_token_id": 4},
    "MPNetForMaskedLM": {"pad_token_id": 1, "max_position_embeddings": 14},
    "NewForMaskedLM": {"type_vocab_size": 2, "rope_theta": 500.0, "rope_scaling": {"type": "ntk", "factor": 2.0}},
    "EsmForMaskedLM": {"pad_token_id": 1, "mask_token_id": 17, "token_dropout": True,
                       "position_embedding_type": "rotary"},
    "Gemma3TextModel": _SPECIAL | {"use_bidirectional_attention": True, "num_key_value_heads": 1, "head_dim": 6,
                                   "query_pre_attn_scalar": 5, "sliding_window": 5, "sliding_window_pattern": 2},
    "EsmcForMaskedLM": _SPECIAL | {"mask_token_id": 4},
}  # fmt: skip

FAIRSEQ = ("MPNetForMaskedLM", "EsmForMaskedLM")  # with fairseq's ids of special tokens


def main():
    import torch

    arrays = {}
    for seed, (name, changes) in enumerate(MODELS.items()):
        kind = random_models.torch_class(name)
        torch.manual_seed(seed)
        model = kind(kind.config_class(**random_models.named(kind.config_class.model_type, SIZES) | changes))
        random_models.rescale(torch, model, 0.1)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model.save_pretrained(folder)
            random_models.tiny_vocabulary(folder, fairseq=name in FAIRSEQ)
            ours = huggingface.read(folder)
            batch = models.batch_of(ours, np.random.default_rng(seed))
            expected = models.reference(models.torch_model(ours, torch.float32), ours, batch)
            arrays[f"{name}/config"] = np.array((folder / "config.json").read_text())
            arrays |= {f"{name}/weights/{key}": np.array(array) for key, array in tensors.read(folder)[0].items()}
        arrays |= {f"{name}/batch/{key}": array for key, array in batch.items()}
        arrays |= {f"{name}/gradients/{key}": array for key, array in expected.pop("gradients").items()}
        hidden = expected.pop("hidden")
        arrays |= {f"{name}/hidden": np.stack(hidden), f"{name}/loss": expected["loss"]}
        arrays |= {f"{name}/{key}": array for key, array in expected.items() if key.startswith("logits")}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
