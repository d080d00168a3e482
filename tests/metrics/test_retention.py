import math

import pytest
import torch

from aeplus.metrics.retention import Retention, packed_rows, retention_curve, unpacked_rows


def test_a_matrix_of_batches() -> None:
    metric = Retention(3)
    metric.update(0, [0, 0], [True, True])
    metric.update(1, [0, 0, 1], [True, False, True])
    metric.update(2, [0, 1, 2, 2], [False, True, True, False])  # one edit of batch 0 was edited again
    matrix = metric.compute()
    assert matrix.nan_to_num(-1).tolist() == [[100, -1, -1], [50, 100, -1], [0, 100, 50]]
    assert retention_curve(matrix).tolist() == [100, 75, 50]


def test_a_batch_that_was_edited_again_whole() -> None:
    metric = Retention(2)
    metric.update(1, [1], [True])
    matrix = metric.compute()
    assert math.isnan(matrix[1, 0])
    assert retention_curve(matrix).nan_to_num(-1).tolist() == [-1, 100]


@pytest.mark.parametrize(("most", "kind"), [(1, torch.uint8), (300, torch.int16), (70_000, torch.int32)])
def test_packed_rows_are_small_and_whole(most: int, kind: torch.dtype) -> None:
    counts = torch.zeros(200, 200, dtype=torch.long)
    counts[:30, :30] = torch.randint(most + 1, (30, 30)).tril()
    counts[7] = 0  # nobody measured after this batch
    counts[29, 0] = most
    packed = packed_rows(counts)
    assert (packed.dtype, len(packed)) == (kind, 30 * 31 // 2)
    assert torch.equal(unpacked_rows(packed), counts[:30, :30])
    assert packed.untyped_storage().nbytes() == packed.numel() * packed.element_size()
    assert len(unpacked_rows(packed_rows(torch.zeros(3, 3, dtype=torch.long)))) == 0


def test_it_can_be_drawn() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    metric = Retention(2)
    metric.update(1, [0, 1], [True, False])
    figure, ax = metric.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("edits of batch", "after batch")
    assert [a.get_ylabel() for a in figure.axes if a is not ax] == ["success (%)"]
    assert ax.images[0].get_array().filled(-1).tolist() == [[-1, -1], [100, 0]]
    matplotlib.pyplot.close(figure)
