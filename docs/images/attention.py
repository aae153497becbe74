"""Draws the attention of every head of a model for one sentence.

    python docs/images/attention.py --model=MODEL --output=attention.png [--text=SENTENCE]

docs/look_inside.md has the commands that trained the model of docs/images/attention.png.
"""

import argparse

import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm

import bert_jax


def draw(tokens, weights, path):
    """Writes a grid of heads, [layers, heads] of them, as a PNG file."""
    layers, heads, length, _ = weights.shape
    size = (1.6 * heads + 0.9, 1.6 * layers + 0.8)
    figure, axes = plt.subplots(layers, heads, figsize=size, layout="constrained", squeeze=False)
    for layer in range(layers):
        for head in range(heads):
            axis = axes[layer, head]
            # A power below one, so that small weights are seen.
            axis.imshow(weights[layer, head], cmap="BuPu", norm=PowerNorm(0.7, 0, 1), interpolation="nearest")
            axis.set_xticks(range(length), tokens if layer == layers - 1 else [""] * length, rotation=90, fontsize=6)
            axis.set_yticks(range(length), tokens if head == 0 else [""] * length, fontsize=6)
            axis.tick_params(length=0, pad=1)
            axis.spines[:].set_color("#cccccc")
            if layer == 0:
                axis.set_title(f"head {head + 1}", fontsize=8)
            if head == heads - 1:
                axis.yaxis.set_label_position("right")
                axis.set_ylabel(f"layer {layer + 1}", fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--text", default="return true if the list is empty, and false if it is not.")
    arguments = parser.parse_args()
    draw(*bert_jax.Inspector.from_pretrained(arguments.model).attention(arguments.text), arguments.output)


if __name__ == "__main__":
    main()
