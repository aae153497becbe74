"""Says which scripts are written without spaces between words."""

import re

# Blocks of Unicode 16, as [first, last] code points.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x312F),  # radicals, CJK punctuation, kana, Bopomofo
    (0x3190, 0xA4CF),  # CJK symbols, Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0xFE30, 0xFE4F),  # CJK punctuation
    (0xFF01, 0xFF9F),  # full-width ASCII, half-width kana
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana, Nushu
    (0x20000, 0x323AF),  # Han
)
_CHARACTER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED) + "]")


def writes_no_spaces(character: str) -> bool:
    """Returns whether a character is of a script without spaces between words, such as Chinese or Thai.

    Korean is written with spaces.
    """
    return _CHARACTER.match(character) is not None
