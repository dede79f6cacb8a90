"""Pure tensor functions: the formulas of RLHF, one per function, per element, without models or settings."""

from rlhf_lite.functional.advantages import gae
from rlhf_lite.functional.kl import AdaptiveKLController, FixedKLController, categorical_kl, kl_estimate
from rlhf_lite.functional.logprobs import entropy, sequence_logps, token_logps
from rlhf_lite.functional.masking import masked_mean, masked_sum, masked_var, masked_whiten
from rlhf_lite.functional.policy_loss import ppo_policy_loss, ppo_value_loss
from rlhf_lite.functional.reward_loss import bradley_terry_loss, centring_penalty

__all__ = [
    "AdaptiveKLController",
    "FixedKLController",
    "bradley_terry_loss",
    "categorical_kl",
    "centring_penalty",
    "entropy",
    "gae",
    "kl_estimate",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "masked_whiten",
    "ppo_policy_loss",
    "ppo_value_loss",
    "sequence_logps",
    "token_logps",
]
