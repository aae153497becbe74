"""Builds the local web page of a model, with gradio: a tab for everything that the model can do."""

import html
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio
import numpy as np

from bert_jax.errors import UserError
from bert_jax.inference.answer import QuestionAnswerer
from bert_jax.inference.classify import Classifier
from bert_jax.inference.embed import Embedder
from bert_jax.inference.fill_mask import FillMask
from bert_jax.inference.inspection import Inspector
from bert_jax.inference.tag import TokenTagger
from bert_jax.runs.models import open_model

_LONGEST_MAP = 64  # tokens of an attention map that can still be read
_SENTENCES = (
    "The cat sleeps on the sofa.\nA dog runs through the park.\nThe bank raised its interest rate.\n"
    "Central banks fight inflation.\nKittens like warm places."
)
_HEATMAP = (
    "<style>.attention td{width:1.2rem;height:1.2rem;padding:0;border:1px solid #8883}"
    ".attention th{font:0.75rem monospace;font-weight:normal;white-space:nowrap;text-align:right;padding:0 0.3rem}"
    ".attention thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left}</style>"
)


def build(name: str) -> gradio.Blocks:
    """Opens a model and returns its page.

    Args:
      name: the workdir of a run, a Hugging Face directory, or a name on the Hugging Face hub.

    Raises:
      UserError: there is no such model.
    """
    model = open_model(name)
    page = gradio.Blocks(title=f"{name}: bert_jax", analytics_enabled=False)
    spec = model.model.spec
    with page:
        gradio.Markdown(f"# {_plain(name)}\n\n{_summary(model)}")
        with gradio.Tabs():
            if spec.task and spec.task.name == "sequence_classification":
                _classify_tab(model)
            if spec.task and spec.task.name == "token_classification":
                _tag_tab(model)
            if spec.task and spec.task.name == "question_answering":
                _answer_tab(model)
            generator = _masked_model(name, model)
            if generator is not None:
                _fill_mask_tab(generator)
            if "embed_refusal" not in model.settings:
                _nearest_tab(model)
            _attention_tab(model)
    return page


def _masked_model(name, model):
    """Returns the model that fills masks, of a run with two the generator; None if there is none."""
    spec = model.model.spec
    if spec.replaced_tokens and not spec.language_model:
        try:
            model = open_model(name, part="language_model")
        except UserError:
            return None
        spec = model.model.spec
    return model if spec.language_model and spec.attention != "causal" else None


def _summary(model):
    spec = model.model.spec
    step = f" Step {model.step:,} of its run." if model.step else ""
    return (
        f"{model.family}: {spec.num_layers} layers of {spec.hidden_size}, {spec.num_heads} heads, a vocabulary of "
        f"{spec.vocab_size:,} tokens, texts of up to {spec.max_positions:,} tokens.{step}"
    )


def _plain(text):
    """Returns a text as Markdown shows it unchanged."""
    return html.escape(str(text)).replace("_", "\\_").replace("*", "\\*")


def _answering(function):
    """Returns the function with its mistakes shown on the page, and with one call at a time."""
    lock = threading.Lock()

    def answer(*values):
        try:
            with lock:
                return function(*values)
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    return answer


def _answer_to(predictor: Callable[..., Any], *values, **options) -> Any:
    """Returns the answer to one example, where a predictor's type allows for several."""
    return predictor(*values, **options)


def _connect(button, boxes, function, outputs):
    """Runs a function when the button is pressed, or Enter in a text box of one line."""
    answer = _answering(function)
    button.click(answer, boxes, outputs)
    for box in boxes:
        if isinstance(box, gradio.Textbox) and box.lines == 1:
            box.submit(answer, boxes, outputs)


def _fill_mask_tab(model):
    fill, mask = FillMask(model), model.tokenizer.token(model.tokenizer.mask_id)
    with gradio.Tab("Fill masks"):
        text = gradio.Textbox(f"The cat sat on the {mask}.", label=f"Text with {mask}")
        number = gradio.Slider(1, 20, 5, step=1, label="Tokens for each mask")
        button = gradio.Button("Fill", variant="primary")
        table = gradio.Dataframe(headers=["mask", "token", "probability"], label="Predictions", interactive=False)

        def predict(text, number):
            answer = _answer_to(fill, text, top_k=int(number))
            return [
                [place, prediction["token"], round(prediction["score"], 4)]
                for place, predictions in enumerate(answer["masks"], 1)
                for prediction in predictions
            ]

        _connect(button, [text, number], predict, table)


def _classify_tab(model):
    classify = Classifier(model)
    with gradio.Tab("Classify"):
        text = gradio.Textbox("A fine film.", label="Text")
        pair = gradio.Textbox("", label="Second text", info="for models of pairs; empty for a single text")
        button = gradio.Button("Classify", variant="primary")
        regression = model.problem == "regression"
        shares = model.settings.get("activation", "") in ("", "Sigmoid")  # scores from 0 to 1, which Label shows in %
        labels = gradio.Label(label="Labels", num_top_classes=10) if shares else gradio.JSON(label="Scores")
        output = gradio.Number(label="Value") if regression else labels

        def predict(text, pair):
            answer = _answer_to(classify, text, pair or None)
            return answer["score"] if regression else answer["scores"]

        _connect(button, [text, pair], predict, output)


def _tag_tab(model):
    tag = TokenTagger(model)
    with gradio.Tab("Tag"):
        text = gradio.Textbox("Ada Lovelace lived in London.", label="Text")
        button = gradio.Button("Tag", variant="primary")
        output = gradio.HighlightedText(label="Entities", show_legend=True)

        def predict(text):
            pieces, end = [], 0
            for entity in _answer_to(tag, text)["entities"]:
                pieces += [(text[end : entity["start"]], None), (entity["text"], entity["label"])]
                end = entity["end"]
            return [piece for piece in [*pieces, (text[end:], None)] if piece[0]]

        _connect(button, [text], predict, output)


def _answer_tab(model):
    answer = QuestionAnswerer(model)
    with gradio.Tab("Answer"):
        question = gradio.Textbox("Where did Ada live?", label="Question")
        context = gradio.Textbox("Ada Lovelace lived in London.", label="Context", lines=5)
        button = gradio.Button("Answer", variant="primary")
        text = gradio.Textbox(label="Answer", interactive=False)
        output = gradio.HighlightedText(label="In the context")

        def predict(question, context):
            span = _answer_to(answer, question, context)
            if span["start"] is None:
                return f"no answer ({span['score']:.3f})", [(context, None)]
            start, end = span["start"], span["end"]
            pieces = [(context[:start], None), (context[start:end], "answer"), (context[end:], None)]
            return f"{span['answer']} ({span['score']:.3f})", [piece for piece in pieces if piece[0]]

        _connect(button, [question, context], predict, [text, output])


def _nearest_tab(model):
    embed = Embedder(model)
    with gradio.Tab("Nearest sentences"):
        query = gradio.Textbox("Where do cats sleep?", label="Text")
        sentences = gradio.Textbox(_SENTENCES, label="Sentences, one a line", lines=6)
        button = gradio.Button("Search", variant="primary")
        table = gradio.Dataframe(headers=["similarity", "sentence"], label="Nearest first", interactive=False)

        def predict(query, sentences):
            lines = [line.strip() for line in sentences.splitlines() if line.strip()]
            if not lines:
                raise UserError("sentences: empty; expected one or more, one a line")
            hits = _answer_to(embed.search, query, lines, top_k=len(lines))
            return [[round(float(hit["score"]), 4), hit["text"]] for hit in hits]

        _connect(button, [query, sentences], predict, table)


def _attention_tab(model):
    inspector, spec = Inspector(model), model.model.spec
    with gradio.Tab("Attention"):
        text = gradio.Textbox("The cat sat on the mat.", label="Text")
        with gradio.Row():
            layer = gradio.Slider(1, spec.num_layers, 1, step=1, label="Layer")
            head = gradio.Slider(0, spec.num_heads, 0, step=1, label="Head", info="0: the mean of all heads")
        button = gradio.Button("Show", variant="primary")
        output = gradio.HTML(label="Attention")

        def predict(text, layer, head):
            tokens, weights = inspector.attention(text)
            if len(tokens) > _LONGEST_MAP:
                raise UserError(f"text: found {len(tokens)} tokens; expected at most {_LONGEST_MAP} for a map")
            heads = weights[int(layer) - 1]
            return heatmap(tokens, heads.mean(0) if head == 0 else heads[int(head) - 1])

        _connect(button, [text, layer, head], predict, output)


def heatmap(tokens: Sequence[str], weights: np.ndarray) -> str:
    """Returns an HTML table of attention weights: a row for each query, a column for each key.

    Args:
      tokens: the tokens of the row.
      weights: attention weights [query, key].
    """
    head = "".join(f"<th>{html.escape(token)}</th>" for token in tokens)
    rows = ""
    for query, row in zip(tokens, weights, strict=True):
        cells = "".join(
            f'<td style="background:rgba(0,114,178,{weight:.3f})" '
            f'title="{html.escape(query)} to {html.escape(key)}: {weight:.3f}"></td>'
            for key, weight in zip(tokens, row, strict=True)
        )
        rows += f"<tr><th>{html.escape(query)}</th>{cells}</tr>"
    table = f'<table class="attention"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{_HEATMAP}<div style="overflow-x:auto">{table}</div>'
