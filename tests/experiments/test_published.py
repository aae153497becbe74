"""The papers' tables are whole, and hold the figures that are quoted most."""

from experiments.published import TABLES


def test_every_row_has_a_figure_for_each_column():
    assert list(TABLES) == ["bert/5", "bert/8", "roberta/1", "roberta/2", "bert/whole_word"]
    for table in TABLES.values():
        assert all(len(figures) == len(table.columns) for figures in table.rows.values())
        assert all(0 < figure < 100 for figures in table.rows.values() for figure in figures if figure is not None)


def test_figures_of_the_papers():
    def figure(table, row, column):
        return TABLES[table].rows[row][TABLES[table].columns.index(column)]

    assert figure("bert/5", "no NSP", "QNLI accuracy") == 84.9
    assert figure("bert/5", "LTR, no NSP", "SQuAD 1.1 F1") == 77.8
    assert figure("bert/8", "100/0/0", "NER, feature-based") == 94.0
    assert figure("roberta/1", "dynamic", "SQuAD 2.0 F1") == 78.7
    assert figure("roberta/1", "static", "MNLI-m accuracy") == 84.3
    assert figure("roberta/2", "doc-sentences", "RACE accuracy") == 65.6
    assert figure("bert/whole_word", "whole word", "MNLI accuracy") == 87.07


def test_sources_say_what_the_figures_are():
    assert all("medians of 5 seeds" in TABLES[name].source for name in ("roberta/1", "roberta/2"))
    assert all("arXiv 1810.04805, table" in TABLES[name].source for name in ("bert/5", "bert/8"))
