"""Checks of the training text: unknown tokens, duplicates, padding, sentence pairs."""

from bert_jax.diagnosis import causes
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

TEXT_IN_ROWS = 0.7  # share; pairs of English prose hold some nine tenths at 128 tokens
UNEVEN = 0.8  # share of the commoner answer; documents of one sentence give 1, those of many sentences a half


def corpus_missing(run: Run) -> Finding | None:
    """Reports corpora that cannot be read, so that problems of their text go unnoticed."""
    missing = [text for text in run.texts if text.manifest is None]
    if not missing:
        return None
    places = "; ".join(f"{text.path}: {text.missing}" for text in missing)
    message = f"The training text cannot be examined (duplicates, unknown tokens, padding, passes over it): {places}."
    metrics = {"corpora": ",".join(text.path for text in missing)}
    return Finding("corpus_missing", "note", message, (), metrics)


def unknown_tokens(run: Run) -> Finding | None:
    """Checks whether the vocabulary fits the text."""
    bad = [text for text in run.readable_texts if text.unknown_share[0] >= causes.UNKNOWN]
    if not bad:
        return None
    worst = max(bad, key=lambda text: text.unknown_share[0])
    (share, unit), facts = worst.unknown_share, worst.manifest["tokenizer"]
    message = (
        f"{percent(share)} of the {unit} of {worst.path} are unknown to its vocabulary of {facts['vocab_size']:,} "
        f"({facts['kind']}): they all look the same to the model, which is rewarded for predicting that one token."
    )
    lower_case = worst.manifest["settings"].get("lower_case")
    reasons = []
    if facts.get("fit", {}).get("long_words"):
        reasons.append(
            "words of over 100 characters, which WordPiece does not read, as in scripts without spaces: prepare the "
            "text with --tokenizer=train:wordpiece:N or train:unigram:N"
        )
    reasons += [
        "a vocabulary of another language, script or domain: prepare the text with --tokenizer=train:wordpiece:N "
        f"(N={facts['vocab_size']} as now), with train:bpe:N, to which nothing is unknown, or with a model of its "
        "language",
        f"capital letters or accents that the vocabulary lacks (--lower_case={lower_case}): try --lower_case=true",
        "unexpected content (binary data, another encoding): look at it with bert_jax.show_batch",
    ]
    severity = "error" if share >= causes.MOSTLY_UNKNOWN else "warning"
    metrics = {key: worst.manifest.get(key) for key in ("unknown_token_share", "unknown_character_share")}
    metrics |= {"vocab_size": facts["vocab_size"], "corpus": worst.path}
    return Finding("unknown_tokens", severity, message, reasons, metrics)


def altered_letters(run: Run) -> Finding | None:
    """Checks whether the vocabulary's normalizer takes letters' marks, or joiners between letters, away."""
    fits = [(text, (text.manifest or {}).get("tokenizer", {}).get("fit", {})) for text in run.readable_texts]
    bad = [
        (fit.get("altered_letter_share", 0), fit.get("lost_joiner_share", 0), text, fit)
        for text, fit in fits
        if fit.get("altered_letter_share", 0) >= causes.ALTERED or fit.get("lost_joiner_share", 0) >= causes.JOINERS
    ]
    if not bad:
        return None
    letters, joiners, worst, fit = max(bad, key=lambda entry: entry[:2])
    parts, reasons = [], []
    if letters >= causes.ALTERED:
        examples = ", ".join(fit.get("altered_examples", ()))
        parts.append(f"{percent(letters)} of the letters change in more than their case ({examples})")
        reasons.append(
            "lower-casing that strips accents, vowel signs and other marks: prepare with --strip_accents=false "
            "or --lower_case=false, or start from a model whose vocabulary keeps them"
        )
    if joiners >= causes.JOINERS:
        parts.append(f"in {percent(joiners)} of the words a joiner or non-joiner (U+200D, U+200C) is lost")
        reasons.append(
            "a normalizer that drops joiners: prepare the text with --tokenizer=train:bpe:N, which keeps them"
        )
    message = f"The vocabulary of {worst.path} reads other text than was written: {'; '.join(parts)}."
    metrics = {"altered_letter_share": letters, "lost_joiner_share": joiners, "corpus": worst.path}
    return Finding("altered_letters", "note", message, reasons, metrics)


def duplicates(run: Run) -> Finding | None:
    """Checks whether many documents equal an earlier one."""
    bad = [text for text in run.readable_texts if text.duplicates >= causes.DUPLICATES * max(1, text.documents)]
    if not bad:
        return None
    worst = max(bad, key=lambda text: text.duplicates / max(1, text.documents))
    share = worst.duplicates / max(1, worst.documents)
    message = (
        f"{percent(share)} of the documents of {worst.path} ({worst.duplicates:,} of {worst.documents:,}) equal an "
        "earlier one: the model memorizes them, and the corpus holds less text than its number of tokens says."
    )
    reasons = ["the text was collected twice or holds boilerplate: prepare it again with --drop_duplicates"]
    tokens = worst.manifest["tokens"] / max(1, worst.documents)
    if tokens < 32:
        reasons.append(
            f"documents are short, {tokens:,.0f} tokens on average, such as single lines: if a file is one "
            "document, prepare with --documents=file"
        )
    severity = "error" if share >= causes.MOSTLY_DUPLICATES else "warning"
    metrics = {"duplicate_share": share, "duplicates": worst.duplicates, "documents": worst.documents}
    return Finding("duplicates", severity, message, reasons, metrics)


def padding(run: Run) -> Finding | None:
    """Checks whether most positions of the rows are padding."""
    share = run.padding
    if share is None or share < causes.PADDING:
        return None
    data = run.phase.data
    message = (
        f"{percent(share)} of the positions of a row are padding{run.phase.name}: of {data.sequence_length} tokens a "
        f"row of {data.format} holds {(1 - share) * data.sequence_length:,.0f} on average."
    )
    short = "documents (by default: text between two blank lines) are shorter than a row"
    tokens = sum(text.manifest["tokens"] for text in run.readable_texts)
    documents = sum(text.documents for text in run.readable_texts)
    if documents:
        short += f": {tokens / documents:,.0f} tokens on average"
    metrics = {"padding_share": share, "sequence_length": data.sequence_length, "format": data.format}
    return Finding("padding", "warning", message, [f"{short}; {causes.padding_advice(run)}"], metrics)


def text_left_out(run: Run) -> Finding | None:
    """Checks whether the rows of pairs leave out much of the text, as pairs longer than a row are cut."""
    share = run.text_share
    if share is None or share >= TEXT_IN_ROWS:
        return None
    data = run.phase.data
    message = (
        f"Rows of {data.format}{run.phase.name} hold {percent(share)} of the text: the ends of pairs that are longer "
        f"than {data.sequence_length} tokens are left out."
    )
    reasons = [
        "sentences nearly as long as a row: look at them with bert_jax.show_batch; a larger "
        f"--config.data.sequence_length than {data.sequence_length} leaves out less, and formats without pairs nothing "
        "(--config.data.format=full_sentences)",
        "text whose sentences the splitter does not find: prepare it with its --language, or with --sentences=line",
    ]
    return Finding("text_left_out", "warning", message, reasons, {"text_share": share, "format": data.format})


def uneven_pairs(run: Run) -> Finding | None:
    """Checks whether nearly all pairs of next-sentence prediction have the same answer."""
    random = run.random_pairs
    if not run.config.objective.next_sentence or random is None or max(random, 1 - random) < UNEVEN:
        return None
    message = (
        f"Next-sentence prediction has little to learn: {percent(random)} of the pairs have another document's text "
        f"second, so that always giving the commoner answer is right for {percent(max(random, 1 - random))}."
    )
    reasons = [
        "documents of one sentence, which nothing follows; prepare longer ones (--documents=file), or leave the task "
        "out: --config.objective.next_sentence=False --config.data.format=full_sentences"
    ]
    return Finding("uneven_pairs", "warning", message, reasons, {"random_pairs": random})
