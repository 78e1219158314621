"""Metrics: series that are found sooner than by their labels, and what is forgotten."""

from service.metrics import Metrics


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition()[0].decode().splitlines() if line.startswith(name)]


def test_a_series_is_that_of_its_labels() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(2)
    metrics.of(metrics.rows, "a").inc()
    metrics.rows.labels("a").inc(4)
    metrics.of(metrics.rows, "b").inc()
    metrics.of(metrics.cancelled, "a").inc(9)
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="a"} 7.0',
        'mcdropout_rows_total{model="b"} 1.0',
    ]


def test_a_model_that_comes_back_is_counted_anew() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(5)
    metrics.of(metrics.rows, "b").inc(5)
    metrics.forget("a")
    assert lines(metrics, "mcdropout_rows_total") == ['mcdropout_rows_total{model="b"} 5.0']
    metrics.of(metrics.rows, "a").inc()
    metrics.of(metrics.rows, "b").inc()
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="b"} 6.0',
        'mcdropout_rows_total{model="a"} 1.0',
    ]
