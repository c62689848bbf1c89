"""A trained run measured while it adapts to what it reads: a temperature, a cache of its states,
gradient steps, an average over dropout masks. Nothing of the run is changed, and validation chooses
what is not given.
"""

from jaxlm.evaluation.adaptation.dynamic import RULES
from jaxlm.evaluation.adaptation.settings import Adaptation
from jaxlm.evaluation.adaptation.tuning import Adapter, adapted

__all__ = ["RULES", "Adaptation", "Adapter", "adapted"]
