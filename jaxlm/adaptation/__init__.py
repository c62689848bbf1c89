"""A trained run measured while it adapts to what it reads: a temperature, a cache of its states,
gradient steps, an average over dropout masks. Nothing of the run is changed, and validation chooses
what is not given.
"""

from jaxlm.adaptation.choosing import Adapter, adapted
from jaxlm.adaptation.dynamic import RULES
from jaxlm.adaptation.settings import Adaptation

__all__ = ["RULES", "Adaptation", "Adapter", "adapted"]
