"""The names of PASS's stages."""

import enum


class Stage(enum.Enum):
    """The stages in their order."""

    PRETRAIN = "pretrain"
    ATTENTION = "attention"
    FEATURES = "features"
    ESTIMATE = "estimate"
    """Only where neither the data nor the settings say how many clusters there are."""
    CLUSTERS = "clusters"
    THRESHOLD = "threshold"
    PSEUDO_LABELS = "pseudo-labels"
    FINETUNE = "finetune"
    PREDICTIONS = "predictions"
    EVALUATION = "evaluation"
    REPORT = "report"
