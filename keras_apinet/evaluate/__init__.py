"""Judging a trained model: metrics, calibration, contrast maps, report and model card.

Names are imported when they are first used: metrics need NumPy alone, the report's
plotting and templating libraries load with the report.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.evaluate.calibration import (
        calibrate_run,
        calibration_error,
        fit_temperature,
        reliability,
    )
    from keras_apinet.evaluate.comparison import compare
    from keras_apinet.evaluate.contrast_maps import (
        Contrast,
        class_activation,
        contrast,
    )
    from keras_apinet.evaluate.evaluation import evaluate_run
    from keras_apinet.evaluate.measures import compute_metrics
    from keras_apinet.evaluate.metrics import retrieval_scores
    from keras_apinet.evaluate.pages import write_card
    from keras_apinet.evaluate.predictions import Predictions, predict_split
    from keras_apinet.evaluate.report import write_report
    from keras_apinet.evaluate.run_comparison import compare_runs

__all__ = [
    "Contrast",
    "Predictions",
    "calibrate_run",
    "calibration_error",
    "class_activation",
    "compare",
    "compare_runs",
    "compute_metrics",
    "contrast",
    "evaluate_run",
    "fit_temperature",
    "predict_split",
    "reliability",
    "retrieval_scores",
    "write_card",
    "write_report",
]

__getattr__ = lazily(
    __name__,
    {
        "Contrast": "contrast_maps",
        "Predictions": "predictions",
        "calibrate_run": "calibration",
        "calibration_error": "calibration",
        "class_activation": "contrast_maps",
        "compare": "comparison",
        "compare_runs": "run_comparison",
        "contrast": "contrast_maps",
        "evaluate_run": "evaluation",
        "fit_temperature": "calibration",
        "compute_metrics": "measures",
        "predict_split": "predictions",
        "reliability": "calibration",
        "retrieval_scores": "metrics",
        "write_card": "pages",
        "write_report": "report",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
