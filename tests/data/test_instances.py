"""The vectorised index against the published procedure written out one sentence at a time, with the same draws."""

import shutil

import numpy as np
import pytest

from bert_jax.data import hashing, instances
from bert_jax.data.corpus import Corpus
from bert_jax.data.instances import Recipe
from bert_jax.errors import UserError

FORMATS = ["segment_pair", "sentence_pair", "full_sentences", "doc_sentences"]


def draws(seed, repeat, document, step):
    key = hashing.draw(hashing.fold("pairs", seed, repeat), np.uint64(document))
    return [hashing.draw(key, np.uint64((1 << 20) + 8 * step + i)) for i in range(7)]


def short_target(seed, repeat, document, room, share):
    key = hashing.draw(hashing.fold("pairs", seed, repeat), np.uint64(document))
    if hashing.uniform(hashing.draw(key, np.uint64(1))) < share:
        return 2 + int(hashing.below(hashing.draw(key, np.uint64(2)), room - 1))
    return room


def reference_pairs(documents, recipe):
    """Yields (a tokens, b tokens, is_random), tokens by offset; documents: a list of lists of (start, length)."""
    room = recipe.sequence_length - 3
    for d, document in enumerate(cut(documents, room)):
        target = short_target(recipe.seed, recipe.repeat, d, room, recipe.short_target_share)
        i, step = 0, 0
        chunk, length = [], 0
        while i < len(document):
            chunk.append(document[i])
            length += document[i][1]
            if recipe.format == "segment_pair":
                full = i == len(document) - 1 or length >= target
            else:
                full = i == len(document) - 1 or len(chunk) == 2
            if full:
                r = draws(recipe.seed, recipe.repeat, d, step)
                step += 1
                a_end = 1
                if len(chunk) >= 2:
                    a_end = 1 + int(hashing.below(r[0], len(chunk) - 1))
                a = tokens(chunk[:a_end])
                is_random = len(chunk) == 1 or hashing.uniform(r[1]) < 0.5
                if is_random:
                    wanted = target - len(a) if recipe.format == "segment_pair" else 1
                    other = int(hashing.below(r[2], len(documents) - 1))
                    other += other >= d
                    start = int(hashing.below(r[3], len(documents[other])))
                    parts = [cut_sentence(sentence, room) for sentence in documents[other]]
                    part = int(hashing.below(r[6], len(parts[start])))
                    b = []
                    for sentence in [*parts[start][part:], *sum(parts[start + 1 :], [])]:
                        b += tokens([sentence])
                        if len(b) >= wanted:
                            break
                    i -= len(chunk) - a_end
                else:
                    b = tokens(chunk[a_end:])
                a, b = truncate(a, b, room, r[4], r[5])
                yield a, b, is_random
                chunk, length = [], 0
            i += 1


def cut_sentence(sentence, room):
    """Returns the parts of a sentence (start, length): itself, or parts of half a row where no row holds it."""
    start, length = sentence
    size = -(-room // 2)
    if length <= room:
        return [sentence]
    return [(start + begin, min(size, length - begin)) for begin in range(0, length, size)]


def cut(documents, room):
    return [sum((cut_sentence(sentence, room) for sentence in document), []) for document in documents]


def tokens(sentences):
    return [start + i for start, length in sentences for i in range(length)]


def truncate(a, b, room, a_key, b_key):
    """Truncates as the published loop does; only the number of tokens cut at each end is random."""
    cut_a = cut_b = 0
    while len(a) - cut_a + len(b) - cut_b > room:
        if len(a) - cut_a > len(b) - cut_b:
            cut_a += 1
        else:
            cut_b += 1
    front_a = int(hashing.coin_flips(np.array([a_key]), np.array([cut_a]))[0])
    front_b = int(hashing.coin_flips(np.array([b_key]), np.array([cut_b]))[0])
    return a[front_a : len(a) - (cut_a - front_a)], b[front_b : len(b) - (cut_b - front_b)]


def reference_packed(documents, recipe):
    """Yields rows of RoBERTa, section 4.2: sentences while they fit; a separator where a document ends inside a row."""
    room = recipe.sequence_length - 2
    row, last = [], None
    for d, document in enumerate(documents):
        if recipe.format == "doc_sentences" and row:
            yield row
            row, last = [], None
        for start, length in document:
            for begin in range(0, length, room):
                part = tokens([(start + begin, min(room, length - begin))])
                crossing = 1 if row and last != d else 0
                separators = len({doc for doc, _ in row}) - 1 if row else 0
                if row and len(row) + separators + crossing + len(part) > room:
                    yield row
                    row = []
                row = row + [(d, token) for token in part]
                last = d
    if row:
        yield row


def reference_ordered_pairs(documents, recipe):
    """Yields (a tokens, b tokens, is_swapped), tokens by offset; documents: a list of lists of (start, length)."""
    room = recipe.sequence_length - 3
    for d, document in enumerate(cut(documents, room)):
        key = hashing.draw(hashing.fold("ordered pairs", recipe.seed, recipe.repeat), np.uint64(d))
        target = room
        if hashing.uniform(hashing.draw(key, np.uint64(1))) < recipe.short_target_share:
            target = 2 + int(hashing.below(hashing.draw(key, np.uint64(2)), room - 1))
        first = step = 0
        while first < len(document) and len(document) > 1:
            first = min(first, len(document) - 2)  # a last sentence that is left alone takes the one before it
            stop = first + 2
            if recipe.format == "segment_pair":
                while stop < len(document) and sum(length for _, length in document[first:stop]) < target:
                    stop += 1
            draws = [hashing.draw(key, np.uint64((1 << 20) + 8 * step + i)) for i in range(4)]
            middle = first + 1 + int(hashing.below(draws[0], stop - first - 1))
            a, b = tokens(document[first:middle]), tokens(document[middle:stop])
            swapped = hashing.uniform(draws[1]) < 0.5
            if swapped:
                a, b = b, a
            a, b = truncate(a, b, room, draws[2], draws[3])
            yield a, b, swapped
            first, step = stop, step + 1


def layout_of(split):
    sentences, documents = np.asarray(split.sentences), np.asarray(split.documents)
    return [
        [(int(sentences[s]), int(sentences[s + 1] - sentences[s])) for s in range(documents[d], documents[d + 1])]
        for d in range(split.num_documents)
    ]


@pytest.mark.parametrize("length", [16, 40, 128])
@pytest.mark.parametrize("format", ["segment_pair", "sentence_pair"])
@pytest.mark.parametrize("repeat", [0, 3])
def test_pairs_are_the_published_procedure(small_corpus, format, length, repeat):
    split = Corpus.open(small_corpus).split("train")
    recipe = Recipe(format, length, seed=7, repeat=repeat)
    built = instances.build(split, recipe)
    expected = list(reference_pairs(layout_of(split), recipe))
    assert len(built) == len(expected) > 100
    for instance, (a, b, is_random) in zip(built, expected, strict=True):
        assert list(range(instance["a_start"], instance["a_start"] + instance["a_length"])) == a
        assert list(range(instance["b_start"], instance["b_start"] + instance["b_length"])) == b
        assert instance["is_random"] == is_random
        assert a and b and len(a) + len(b) <= length - 3


@pytest.mark.parametrize("length", [16, 40, 128])
@pytest.mark.parametrize("format", ["full_sentences", "doc_sentences"])
def test_rows_are_whole_sentences_of_roberta(small_corpus, format, length):
    split = Corpus.open(small_corpus).split("train")
    built = instances.build(split, Recipe(format, length))
    expected = list(reference_packed(layout_of(split), Recipe(format, length)))
    assert len(built) == len(expected) > 50
    for instance, row in zip(built, expected, strict=True):
        assert list(range(instance["start"], instance["stop"])) == [token for _, token in row]
        assert instance["document"] == row[0][0]
        assert instance["num_documents"] == len({document for document, _ in row})
    # No token is lost, none is there twice.
    assert built["start"][0] == 0 and built["stop"][-1] == split.num_tokens
    np.testing.assert_array_equal(built["start"][1:], built["stop"][:-1])


def test_shares_of_the_published_procedure(small_corpus):
    split = Corpus.open(small_corpus).split("train")
    built = np.concatenate([instances.build(split, Recipe("segment_pair", 64, repeat=r)) for r in range(30)])
    starts = np.asarray(split.sentences)[np.asarray(split.documents)]
    document_of, b_document_of = (np.searchsorted(starts, built[name], "right") for name in ("a_start", "b_start"))
    random = built["is_random"] == 1
    assert (document_of != b_document_of)[random].all(), "a random B from the same document"
    assert (document_of == b_document_of)[~random].all()
    # True nexts follow A directly, but for what was cut from either side of a full row.
    gap = (built["b_start"] - built["a_start"] - built["a_length"])[~random]
    uncut = (built["a_length"] + built["b_length"])[~random] < 61
    assert (gap >= 0).all() and not gap[uncut].any() and uncut.sum() > 1000
    # Half of the chunks with two segments or more, all of those with one.
    assert 0.5 < random.mean() < 0.75
    # A tenth of the documents aim at a length that is uniform below the limit; they make more and shorter rows.
    fills = (built["a_length"] + built["b_length"] >= 40).mean()
    everything = np.concatenate(
        [instances.build(split, Recipe("segment_pair", 64, repeat=r, short_target_share=0.0)) for r in range(30)]
    )
    assert (everything["a_length"] + everything["b_length"] >= 40).mean() > fills + 0.05


@pytest.mark.parametrize("format", FORMATS)
def test_an_index_does_not_depend_on_blocks_workers_or_the_cache(small_corpus, format, tmp_path, monkeypatch):
    copies = [shutil.copytree(small_corpus, tmp_path / name) for name in ("one", "two")]
    recipe = Recipe(format, 32, seed=1)
    monkeypatch.setattr(instances, "_BLOCK_TOKENS", 1500)
    monkeypatch.setattr(instances, "_POOL_TOKENS", 0)
    one = instances.open_index(Corpus.open(copies[0]), "train", recipe, workers=1)
    two = instances.open_index(Corpus.open(copies[1]), "train", recipe, workers=2)
    assert one.tobytes() == two.tobytes()
    assert len(instances._blocks(Corpus.open(copies[0]).split("train"))) > 2
    path = next((copies[0] / "index").glob(f"train-{format}-32-*.npy"))
    before = path.stat().st_mtime_ns
    again = instances.open_index(Corpus.open(copies[0]), "train", recipe)
    assert again.tobytes() == one.tobytes() and path.stat().st_mtime_ns == before
    assert not list((copies[0] / "index").glob(".*")), "a temporary file was left behind"


def test_an_index_depends_on_seed_repeat_length_and_format(small_corpus):
    split = Corpus.open(small_corpus).split("train")
    recipes = [
        Recipe("segment_pair", 64, seed=0, repeat=0),
        Recipe("segment_pair", 64, seed=1, repeat=0),
        Recipe("segment_pair", 64, seed=0, repeat=1),
        Recipe("segment_pair", 48, seed=0, repeat=0),
        Recipe("sentence_pair", 64, seed=0, repeat=0),
    ]
    assert len({instances.build(split, recipe).tobytes() for recipe in recipes}) == len(recipes)
    assert len({recipe.key() for recipe in recipes}) == len(recipes)
    assert Recipe("full_sentences", 64, seed=1).key() == Recipe("full_sentences", 64, seed=2).key()


def test_a_single_document_has_no_other_to_pair_with(make_corpus):
    corpus = Corpus.open(make_corpus("one thing . \n and another . \n and so on . \n", name="single"))
    with pytest.raises(UserError, match="1 document in the training split.*expected at least 2.*--documents"):
        instances.open_index(corpus, "train", Recipe("segment_pair", 32))
    assert len(instances.open_index(corpus, "train", Recipe("full_sentences", 32))) == 1


def test_a_read_only_corpus_keeps_its_indexes_in_the_users_cache(small_corpus, tmp_path, monkeypatch):
    corpus = Corpus.open(shutil.copytree(small_corpus, tmp_path / "corpus"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(instances.os, "access", lambda *_: False)  # root may write anywhere
    instances.open_index(corpus, "train", Recipe("doc_sentences", 32))
    assert list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize("length", [16, 64])
@pytest.mark.parametrize("format", ["segment_pair", "sentence_pair"])
def test_ordered_pairs_are_the_procedure(small_corpus, format, length):
    split = Corpus.open(small_corpus).split("train")
    for repeat in (0, 3):
        recipe = Recipe(format, length, seed=7, repeat=repeat, sentence_order=True)
        built = instances.build(split, recipe)
        expected = list(reference_ordered_pairs(layout_of(split), recipe))
        assert len(built) == len(expected) > 100
        for instance, (a, b, swapped) in zip(built, expected, strict=True):
            assert list(range(instance["a_start"], instance["a_start"] + instance["a_length"])) == a
            assert list(range(instance["b_start"], instance["b_start"] + instance["b_length"])) == b
            assert instance["is_swapped"] == swapped
            assert a and b and len(a) + len(b) <= length - 3
    documents = np.array_split(np.arange(split.num_documents + 1), 3)
    parts = [instances.build(split, recipe, int(d[0]), int(d[-1]) + 1) for d in documents[:-1]]
    parts.append(instances.build(split, recipe, int(documents[-1][0]), split.num_documents))
    assert np.concatenate(parts).tobytes() == built.tobytes(), "blocks change the pairs"


def test_half_of_the_ordered_pairs_are_swapped_and_all_are_of_one_document(small_corpus):
    split = Corpus.open(small_corpus).split("train")
    recipes = [Recipe("segment_pair", 64, repeat=repeat, sentence_order=True) for repeat in range(20)]
    built = np.concatenate([instances.build(split, recipe) for recipe in recipes])
    starts = np.asarray(split.sentences)[np.asarray(split.documents)]
    first, second = (np.searchsorted(starts, built[name], "right") for name in ("a_start", "b_start"))
    assert (first == second).all()
    swapped = built["is_swapped"] == 1
    assert abs(swapped.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(built))
    np.testing.assert_array_equal(built["b_start"] < built["a_start"], swapped)
    # What was not cut follows directly.
    uncut = built["a_length"] + built["b_length"] < 61
    gap = np.where(
        swapped,
        built["a_start"] - built["b_start"] - built["b_length"],
        built["b_start"] - built["a_start"] - built["a_length"],
    )
    assert not gap[uncut].any() and (gap >= 0).all() and uncut.sum() > 1000


@pytest.mark.parametrize("sentence_order", [False, True])
@pytest.mark.parametrize("format", ["segment_pair", "sentence_pair"])
def test_pairs_hold_the_text_of_endless_sentences(make_corpus, format, sentence_order):
    """Documents of one sentence each, far longer than a row, as text without full stops gives."""
    rng = np.random.default_rng(0)
    endless = "\n\n".join(" ".join(rng.choice(list("abcdefgh"), 3000)) for _ in range(3))
    corpus = Corpus.open(make_corpus(endless, name=f"endless-{format}-{sentence_order}", eval_share=0))
    split = corpus.split("train")
    assert split.num_sentences == 3
    recipe = Recipe(format, 64, seed=3, sentence_order=sentence_order)
    index = instances.open_index(corpus, "train", recipe)
    in_rows = np.zeros(split.num_tokens, bool)
    for a, b, a_length, b_length, is_random in index.tolist():
        in_rows[a : a + a_length] = True
        if sentence_order or not is_random:
            in_rows[b : b + b_length] = True
    assert in_rows.mean() > 0.93
    assert abs(instances.share_held(index, split.num_tokens) - in_rows.mean()) < (0.03 if sentence_order else 0.001)
    if not sentence_order:
        assert 0.4 < index["is_random"].mean() < 0.7
        b = index["b_start"][index["is_random"] == 1]
        assert len(np.unique(b)) > 0.5 * len(b), "a random B always begins where a document does"


def test_the_share_of_the_text_that_rows_hold(small_corpus):
    split = Corpus.open(small_corpus).split("train")
    for format in ("full_sentences", "doc_sentences"):
        assert instances.share_held(instances.build(split, Recipe(format, 40)), split.num_tokens) == 1
    share = instances.share_held(instances.build(split, Recipe("segment_pair", 16)), split.num_tokens)
    assert 0.5 < share < 1
    assert instances.share_held(instances.build(split, Recipe("segment_pair", 128), 0, 0), split.num_tokens) == 0


@pytest.mark.parametrize("noted", [True, False])
def test_indexes_without_long_sentences_are_those_made_before(small_corpus, tmp_path, noted):
    """The cached file has another name where sentences are cut, which earlier versions did not do."""
    corpus = Corpus.open(shutil.copytree(small_corpus, tmp_path / "corpus"))
    if not noted:  # as in manifests of earlier versions
        corpus.manifest["splits"]["train"].pop("longest_sentence")
    assert instances.longest_sentence(corpus, "train") == max(np.diff(corpus.split("train").sentences)) == 300
    for length, is_cut in ((302, True), (303, False)):
        for recipe in (Recipe("segment_pair", length), Recipe("segment_pair", length, sentence_order=True)):
            instances.open_index(corpus, "train", recipe)
            (file,) = (tmp_path / "corpus" / "index").glob(f"train-segment_pair-{length}-*.npy")
            assert file.stem.endswith("-cut") == is_cut
            assert instances.cached_index(corpus, "train", recipe) is not None
            file.unlink()
    instances.open_index(corpus, "train", Recipe("full_sentences", 16))
    (file,) = (tmp_path / "corpus" / "index").glob("train-full_sentences-16-*.npy")
    assert not file.stem.endswith("-cut")
