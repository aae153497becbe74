"""Shows a model on a local web page: fill masks, classify, tag, answer, nearest sentences, attention.

    python -m bert_jax.demo --model=MODEL [--port=7860]

MODEL is the workdir of a run, a Hugging Face directory or a name on the hub. The page has a tab for each thing that the
model can do. It is served to this machine alone and loads nothing from elsewhere; Ctrl-C ends it. It needs gradio:
pip install 'bert_jax[demo]'.
"""

import importlib.util
import os
import threading

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError

_MODEL = flags.DEFINE_string(
    "model", None, "the workdir of a run, a Hugging Face directory, or a hub name", required=True
)
_PORT = flags.DEFINE_integer("port", 7860, "port of the page; 0: any that is free", lower_bound=0, upper_bound=65535)


def main(argv):
    del argv
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio: not installed; expected it for the page: pip install 'bert_jax[demo]'")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    from bert_jax.inference import page

    model_page = page.build(_MODEL.value)
    plain = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
    try:
        _, address, _ = model_page.launch(
            server_name="127.0.0.1",
            server_port=_PORT.value or None,
            prevent_thread_lock=True,
            quiet=True,
            theme=plain,
            share=False,
            ssr_mode=False,
            footer_links=[],
        )
    except OSError as error:
        reason = "another program uses it" if "Cannot find empty port" in str(error) else f"cannot be used: {error}"
        raise UserError(f"--port={_PORT.value}: {reason}; expected a free one, or 0") from error
    print(f"{_MODEL.value}: {address} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        model_page.close(verbose=False)


if __name__ == "__main__":
    command.run(main, likely=("model",))
