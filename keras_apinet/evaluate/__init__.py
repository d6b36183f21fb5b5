"""Evaluation of a trained model: metrics, calibration, contrast maps, report and card.

Names are imported on first use: metrics only need NumPy, and plotting and templating
libraries are loaded with the report.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.evaluate.calibration import (
        calibrate_run as calibrate_run,
        calibration_error as calibration_error,
        fit_temperature as fit_temperature,
        reliability as reliability,
    )
    from keras_apinet.evaluate.comparison import compare as compare
    from keras_apinet.evaluate.contrast_maps import (
        Contrast as Contrast,
        class_activation as class_activation,
        contrast as contrast,
    )
    from keras_apinet.evaluate.evaluation import evaluate_run as evaluate_run
    from keras_apinet.evaluate.measures import compute_metrics as compute_metrics
    from keras_apinet.evaluate.metrics import retrieval_scores as retrieval_scores
    from keras_apinet.evaluate.pages import write_card as write_card
    from keras_apinet.evaluate.predictions import (
        Predictions as Predictions,
        predict_split as predict_split,
    )
    from keras_apinet.evaluate.report import write_report as write_report
    from keras_apinet.evaluate.run_comparison import compare_runs as compare_runs

__getattr__, __dir__, __all__ = lazily()
