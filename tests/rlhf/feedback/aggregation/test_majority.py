import numpy as np

from rlhf.feedback.aggregation.majority import agrees_with_others, label_counts, plurality

ITEMS = np.array([0, 0, 0, 1, 1, 2])
LABELS = np.array([1, 1, 0, 2, 0, 1])


def test_labels_are_counted_by_item() -> None:
    assert label_counts(ITEMS, LABELS).tolist() == [[1, 2, 0], [1, 0, 1], [0, 1, 0]]
    assert label_counts(ITEMS, LABELS, 4).shape == (3, 4)


def test_a_draw_has_no_plurality() -> None:
    assert plurality(label_counts(ITEMS, LABELS)).tolist() == [1, -1, 1]


def test_an_annotator_is_compared_with_the_others_alone() -> None:
    agrees, judged = agrees_with_others(ITEMS, LABELS)
    # The others of either 1 are divided; those of the 0 are of one mind; a lone judgement has no others.
    assert judged.tolist() == [False, False, True, True, True, False]
    assert not agrees[judged].any()
    agrees, judged = agrees_with_others(np.array([0, 0, 0]), np.array([1, 1, 1]))
    assert agrees.all()
    assert judged.all()
