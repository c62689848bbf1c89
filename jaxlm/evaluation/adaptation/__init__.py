"""Evaluate a trained run while it adapts to the text that it reads.

There are four kinds of adaptation: a temperature, a cache of hidden states, dynamic evaluation
(gradient steps on the evaluated text), and an average over dropout masks. The run itself does not
change. Settings that the user leaves out are tuned on the validation split.
"""

from jaxlm.evaluation.adaptation.dynamic import UPDATE_RULES
from jaxlm.evaluation.adaptation.settings import Adaptation, can_adapt
from jaxlm.evaluation.adaptation.tuning import AdaptiveEvaluator, adapted

__all__ = ["UPDATE_RULES", "Adaptation", "AdaptiveEvaluator", "adapted", "can_adapt"]
