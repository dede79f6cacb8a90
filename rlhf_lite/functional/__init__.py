"""Pure tensor functions: the formulas of RLHF, one per function, per element, without models or settings.

- ``logprobs``, ``masking``, ``kl``: tokens, means over what counts, distance from the reference;
- ``advantages``: GAE, returns, group and leave-one-out baselines;
- ``policy_loss`` (PPO), ``group_loss`` (GRPO, REINFORCE, how tokens become one number);
- ``reward_loss``: preferences, ratings and ordered grades;
- ``preference``: ``paired`` (DPO and its relatives with a reference), ``reference_free`` (without one),
  ``unpaired`` (KTO, BCO), ``table`` (all of them by name, with their optimum);
- ``best_of_n``: what choosing among n samples does.

Log-probabilities are in nats. Reference, old policy, advantages and returns are constants everywhere.
"""

from rlhf_lite.functional.advantages import discounted_returns, gae, group_advantages, rloo_advantages
from rlhf_lite.functional.best_of_n import best_of_n_estimate, best_of_n_kl_bound, best_of_n_probs
from rlhf_lite.functional.group_loss import aggregate_tokens, aggregation_weights, grpo_loss, reinforce_loss
from rlhf_lite.functional.kl import AdaptiveKLController, FixedKLController, categorical_kl, kl_estimate
from rlhf_lite.functional.logprobs import entropy, sequence_logps, token_logps
from rlhf_lite.functional.masking import masked_mean, masked_sum, masked_var, masked_whiten
from rlhf_lite.functional.policy_loss import ppo_policy_loss, ppo_value_loss
from rlhf_lite.functional.preference.paired import (
    apo_down_loss,
    apo_zero_loss,
    dpo_loss,
    hinge_loss,
    implicit_reward,
    ipo_loss,
    nca_loss,
    robust_dpo_loss,
    sppo_loss,
)
from rlhf_lite.functional.preference.reference_free import cpo_loss, orpo_loss, simpo_loss
from rlhf_lite.functional.preference.table import PREFERENCE_LOSSES, PairLogps, PreferenceLoss
from rlhf_lite.functional.preference.unpaired import RunningDelta, bco_loss, kto_baseline, kto_loss
from rlhf_lite.functional.reward_loss import (
    bradley_terry_loss,
    centring_penalty,
    ordinal_loss,
    rating_regression_loss,
)

__all__ = [
    "PREFERENCE_LOSSES", "AdaptiveKLController", "FixedKLController", "PairLogps", "PreferenceLoss",
    "RunningDelta", "aggregate_tokens", "aggregation_weights", "apo_down_loss", "apo_zero_loss", "bco_loss",
    "best_of_n_estimate", "best_of_n_kl_bound", "best_of_n_probs", "bradley_terry_loss", "categorical_kl",
    "centring_penalty", "cpo_loss", "discounted_returns", "dpo_loss", "entropy", "gae", "group_advantages",
    "grpo_loss", "hinge_loss", "implicit_reward", "ipo_loss", "kl_estimate", "kto_baseline", "kto_loss",
    "masked_mean", "masked_sum", "masked_var", "masked_whiten", "nca_loss", "ordinal_loss", "orpo_loss",
    "ppo_policy_loss", "ppo_value_loss", "rating_regression_loss", "reinforce_loss", "rloo_advantages",
    "robust_dpo_loss", "sequence_logps", "simpo_loss", "sppo_loss", "token_logps",
]
