"""Which characters are of scripts without spaces between words."""

import unicodedata

from bert_jax.data.scripts import writes_no_spaces


def test_scripts_with_and_without_spaces():
    assert all(map(writes_no_spaces, "中々。，、ひカｶ𠀀กไ່ລཀ་ကခ។ក！ㄅ꒰"))
    assert not any(map(writes_no_spaces, "aé.,—“한ㄱअ।אبაሀ።Яλ😀 \n0"))


def test_wide_letters_are_of_such_scripts_except_in_korean():
    wide = [c for c in map(chr, range(0x110000)) if unicodedata.east_asian_width(c) in "WF" and c.isalpha()]
    others = {unicodedata.name(c).split()[0] for c in wide if not writes_no_spaces(c)}
    assert others <= {"HANGUL"}
