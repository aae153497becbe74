"""Sentences: where they end, and that no text is lost."""

import gzip
import random
import re
import unicodedata

import pytest

from bert_jax.data.preparation.sentences import join_lines, sentences_of
from tests.data.awkward import random_texts, shared


def split(*lines, language="en"):
    return sentences_of(list(lines), "split", language)


def test_printed_line_breaks_are_spaces():
    assert split("It was late. The cat", "had left. Who knew?") == ["It was late.", "The cat had left.", "Who knew?"]


def test_one_sentence_a_line():
    assert sentences_of(["One. Two.", "three"], "line", "en") == ["One. Two.", "three"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mr. Smith met Dr. J. K. Brown on Jan. 5 at 3.5 p.m. They talked.", 2),
        ("“Go away. Now!” he said. She went.", 2),
        ("It grew by 3.14 percent, e.g. in the U.S. economy. See fig. 2.", 2),
        ("Really?! Yes... No.", 3),
    ],
)
def test_full_stops_that_end_nothing(text, count):
    assert len(split(text)) == count


def test_only_scripts_without_spaces_end_a_sentence_inside_a_run_of_characters():
    assert split("‘It is late.’You said so. See www.example.org/a.Html now.") == [
        "‘It is late.’You said so.", "See www.example.org/a.Html now.",
    ]  # fmt: skip
    assert split("今天很好。明天见！", language="zh") == ["今天很好。", "明天见！"]


@pytest.mark.parametrize(("language", "sentences"), [
    ("zh", ["“走吧。”", "“好。”他说。"]),
    ("zh", ["“你好！”", "“你是谁？”", "“我……”", "“走吧!”", "“好。”"]),
    ("zh", ["「走吧。」", "「好。」"]),
    ("zh-hant", ["『走吧。』", "『好。』"]),
    ("ja", ["「行こう。」", "『うん。』"]),
    ("zh", ["他说：“她问‘走吗？’”", "“是的。”"]),
    ("zh", ["（完。）", "（好。）"]),
])  # fmt: skip
def test_dialogue_without_spaces_is_split_between_its_quotes(language, sentences):
    assert split("".join(sentences), language=language) == sentences


def test_an_apostrophe_at_the_start_of_a_sentence_stays_there():
    assert split("It is “late.” ’Tis true. “Why?”") == ["It is “late.”", "’Tis true.", "“Why?”"]


def test_other_languages():
    assert split("Das ist z.B. gut. Am 3. Mai kam er.", language="de") == ["Das ist z.B. gut.", "Am 3. Mai kam er."]
    assert split("One. Two.", language="xx") == ["One.", "Two."]  # unknown: the splitter's own rules for any


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("hi", ["यह एक वाक्य है।", "क्या यह दूसरा है?", "हाँ॥"]),
        ("bn", ["এটি একটি বাক্য।", "এটি দ্বিতীয়।"]),
        ("hy", ["Սա նախադասություն է։", "Սա երկրորդն է։"]),
        ("my", ["ဒါက ပထမ၊ လူ၏ ဝါကျ ဖြစ်သည်။", "ဟုတ်ကဲ့။"]),
        ("ar", ["كيف حالك؟", "أنا بخير.", "شكرا لك!"]),
        ("ur", ["آپ کیسے ہیں؟", "میں ٹھیک ہوں۔"]),
        ("am", ["ይህ ዓረፍተ ነገር ነው።", "እንዴት ነህ፧", "ደህና።"]),
        ("am", ["ይህ ዓረፍተ ነገር ነው፡፡", "እንዴት ነህ፧", "ደህና::", "አዎ፡፡"]),
        ("am", ["ይህ፡ዓረፍተ፡ነገር፡ነው።", "ደህና።"]),
        ("el", ["Τι κάνεις\u037e", "Καλά.", "Ναι\u037e"]),
        ("he", ["בראשית ברא אלהים׃", "והארץ היתה תהו׃", "ויאמר׃"]),
        ("km", ["នេះជាប្រយោគ។", "តើអ្នកសុខសប្បាយទេ?", "បាទ៕"]),
        ("bo", ["འདི་ཚིག་གྲུབ་ཅིག་ཡིན། །", "འདི་གཉིས་པ་ཡིན།", "ཡག་པོ་འདུག༎"]),
        ("el", ["Πώς είσαι;", "Είμαι καλά."]),
        ("zh", ["今天很好。", "明天见！", "好吗？"]),
        ("ja", ["今日は。", "また明日！"]),
        ("ja", ["ﾆﾎﾝｺﾞﾃﾞｽ｡", "｢ﾊｲ｡｣", "ﾄﾃﾓｲｲ｡"]),
        ("sat", ["ᱱᱚᱶᱟ ᱢᱤᱫ ᱟᱹᱭᱟᱹᱛ᱾", "ᱱᱚᱶᱟ ᱫᱚᱥᱟᱨ᱾"]),
    ],
)
def test_sentences_that_do_not_end_in_a_full_stop(language, sentences):
    assert split(" ".join(sentences), language=language) == sentences
    stops = [sentence[-1] not in "?!.;" for sentence in sentences]
    if all(stops) or language in ("zh", "ja"):  # these marks need no space behind them
        assert split("".join(sentences), language=language) == sentences


PAIRS = ["()", "[]", "{}", "<>", "（）", "“”", "„“", "«»", "»«", "‹›", "‘’", "「」", "《》", '""', "''", "``"]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_distant_pair_of_marks_joins_no_sentences(pair):
    text = f"See {pair[0]}1. " + "He slept well. " * 200 + f"2{pair[1]} below. She came."
    sentences = split(text)
    assert sentences == [f"See {pair[0]}1.", *["He slept well."] * 200, f"2{pair[1]} below.", "She came."]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_mark_without_its_partner_joins_no_sentences(pair):
    text = f"He said {pair[0]}no. " + "He slept well. " * 200 + "The end."
    assert split(text)[-200:] == [*["He slept well."] * 199, "The end."]


def test_near_marks_between_a_distant_pair_keep_their_sides():
    inside = ["He slept.", "“She came.”", "(Or not.)", "Yes.[12]", 'He said "no."', '"Yes."', "„Nein.“", "‘So it is.’"]
    sentences = split("See (1. " + " ".join(inside * 50) + " 2) below.")
    # The first bracket's partner is the near one, behind "not".
    assert sentences[0] == "See (1. He slept. “She came.” (Or not.) Yes.[12]"
    assert sentences.count("He slept.") == sentences.count("“She came.”") == 49
    for sentence in sentences:
        assert sentence[-1] not in "(„‘"
        assert sentence[0] not in ")”’"
    chinese = split("他说（一。" + "他走了。「是。」「不。」《书。》" * 200 + "二）。", language="zh")
    assert chinese.count("「是。」") == chinese.count("「不。」") == chinese.count("《书。》") == 200


def test_a_paragraph_of_speech_is_one_sentence_as_before():
    speech = "“" + "He slept well. " * 100 + "”"
    assert split(f"They said {speech} and went.") == [f"They said {speech} and went."]


def test_long_pieces_lose_no_character():
    marks = [" ", ". ", "! ", "(", ") ", "“", "”", '"', "'", "«", "»", "。", "「", "」", "[1]", "a", "Be", "é", "好"]
    draw = random.Random(8)
    for _ in range(30):
        text = "Was (" + "".join(draw.choices(marks, k=4000)) + "x) End."
        assert "".join("".join(split(text)).split()) == "".join(text.split())


def test_a_long_run_of_marks_takes_no_longer_than_its_length():
    assert split("(" * 200_000 + "He slept. She came.")[-1].endswith("She came.")


def test_thai_and_lao_sentences_end_at_spaces_between_words():
    thai = ["วันนี้อากาศดี", "เราไปเดินเล่นกับเด็ก ๆ ที่ตลาด", "ราคา 30 บาทและ Linux ก็ดี"]
    assert split(" ".join(thai), language="th") == thai
    assert split("ສະບາຍດີ ຂ້ອຍໄປຕະຫຼາດ", language="lo") == ["ສະບາຍດີ", "ຂ້ອຍໄປຕະຫຼາດ"]


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (["人人生而", "自由，在尊严", "和权利上"], "人人生而自由，在尊严和权利上"),
        (["すべての人間は、", "生まれながら", "にして"], "すべての人間は、生まれながらにして"),
        (["他说：“好", "”，然后", "——走了"], "他说：“好”，然后——走了"),
        (["ｶﾅ", "ｶﾅ"], "ｶﾅｶﾅ"),
        (["漢字☆", "漢字", "※漢字😀", "漢字"], "漢字☆漢字※漢字😀漢字"),
        (["中文", "한국어 😀", "😀 α", "中"], "中文 한국어 😀 😀 α 中"),
        (["他说：“走吧。”", "“好。”"], "他说：“走吧。”“好。”"),
        (["他走了……", "……又回来", "了——", "——好"], "他走了…………又回来了————好"),
        (["「好」※", "☆「是」"], "「好」※☆「是」"),
        (["漢字“", "” 한국어", "한국어 “", "“ 漢字"], "漢字“ ” 한국어 한국어 “ “ 漢字"),
        (["They said “go.”", "“Fine.”"], "They said “go.” “Fine.”"),
        (["Он сказал…", "…и ушёл"], "Он сказал… …и ушёл"),
        (["使用", "Linux", "系统 2", "版"], "使用 Linux 系统 2 版"),
        (["모든 인간은", "태어날 때부터"], "모든 인간은 태어날 때부터"),
        (["The cat", "sat “there”", "again"], "The cat sat “there” again"),
        (["là où", "était"], "là où était"),
        (["यह एक", "वाक्य है"], "यह एक वाक्य है"),
        (["มนุษย์ทั้ง", "หลายเกิดมา"], "มนุษย์ทั้งหลายเกิดมา"),
        (["ຄົນທຸກຄົນ", "ເກີດມາ"], "ຄົນທຸກຄົນເກີດມາ"),
        (["មនុស្សទាំងអស់", "កើតមក"], "មនុស្សទាំងអស់កើតមក"),
        (["လူတိုင်းသည်", "တူညီ"], "လူတိုင်းသည်တူညီ"),
        (["มนุษย์", "ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน"], "มนุษย์ ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน"),
        (["នេះជាប្រយោគ។", "នេះជាទីពីរ។"], "នេះជាប្រយោគ។ នេះជាទីពីរ។"),
    ],
)
def test_lines_are_joined_without_spaces_where_the_script_has_none(lines, joined):
    assert join_lines(lines) == joined


def wrapped(line, width=30):
    """Returns a line cut between wide letters or marks, as an editor wraps it."""
    lines, begin = [], 0
    for i in range(1, len(line)):
        widths = [unicodedata.east_asian_width(c) for c in line[i - 1 : i + 1]]
        wide = set(widths) == {"W"} or (set(widths) <= set("AW") and not line[i - 1 : i + 1].isalnum())
        if i - begin >= width and wide:
            lines.append(line[begin:i])
            begin = i
    return [*lines, line[begin:]]


@pytest.mark.parametrize("file", ["udhr/zh.txt", "udhr/zh-hant.txt", "udhr/ja.txt", "debian_reference/ja.txt.gz"])
def test_hard_wrapped_text_is_that_of_long_lines(file):
    opener = gzip.open if file.endswith(".gz") else open
    with opener(shared(file), "rt", encoding="utf-8") as text:
        lines = [line for line in map(str.strip, text) if len(wrapped(line)) > 1]
    assert len(lines) > 20
    for line in lines:
        assert join_lines(wrapped(line)) == line


def test_no_character_but_white_space_is_lost():
    for text in random_texts(2000, seed=4):
        lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
        if lines:
            kept = "".join("".join(split(*lines)).split())
            assert kept == "".join("".join(lines).split())


def test_a_whole_book_is_kept():
    text = shared("books/00035_the-time-machine.txt").read_text("utf-8")
    count = 0
    for paragraph in re.split(r"\n\n+", text):
        lines = [line.strip() for line in paragraph.split("\n") if line.strip()]
        sentences = split(*lines)
        assert " ".join(sentences).split() == " ".join(lines).split()
        count += len(sentences)
    assert 1500 < count < 3000
