"""Plausible mistakes in ``rlhf_lite/functional``, each as one edit of the source.

Every entry is a mistake that somebody has made or could make in an afternoon, that runs without an error,
and that training hides for a while. ``test_mutations.py`` applies them one by one and requires a test to
fail. The explanations are written for readers: they are the raw material of the book's failure gallery.

The entries themselves are in the files beside this one, by topic.
"""

from __future__ import annotations

from dataclasses import dataclass

# Which tests watch which file: a mutation counts as found when one of these fails.
TESTS = {
    "advantages.py": ("test_advantages.py", "test_group_advantages.py"),
    "best_of_n.py": ("test_best_of_n.py",),
    "group_loss.py": ("test_group_loss.py", "test_group_advantages.py"),
    "kl.py": ("test_kl.py",),
    "logprobs.py": ("test_logprobs.py",),
    "masking.py": ("test_masking.py",),
    "policy_loss.py": ("test_losses.py", "test_group_loss.py"),
    "preference/paired.py": ("test_preference_loss.py", "test_preference_optima.py"),
    "preference/reference_free.py": ("test_preference_loss.py",),
    "preference/unpaired.py": ("test_kto.py", "test_preference_loss.py"),
    "preference/terms.py": ("test_preference_loss.py", "test_preference_optima.py"),
    "preference/table.py": ("test_preference_table.py",),
    "reward_loss.py": ("test_losses.py", "test_rating_losses.py"),
}


@dataclass(frozen=True)
class Mutation:
    """One edit of one file.

    Attributes:
        id: short and unique, for the report and for the book.
        function: the public name of ``rlhf_lite.functional`` that goes wrong.
        file: in ``rlhf_lite/functional``.
        old, new: the text and its replacement; ``old`` occurs exactly once in the file.
        mistake: one sentence: what somebody got wrong.
        symptom: what a run shows, if it shows anything.
        seen: where public code has or had it; empty if we know of no place.
    """

    id: str
    function: str
    file: str
    old: str
    new: str
    mistake: str
    symptom: str
    seen: str = ""


def all_mutations() -> list[Mutation]:
    """Every entry of the topic files, in the order of the book."""
    import mutations_advantages
    import mutations_policy
    import mutations_preference
    import mutations_preference_free
    import mutations_reward
    import mutations_tokens

    topics = (
        mutations_tokens,
        mutations_reward,
        mutations_advantages,
        mutations_policy,
        mutations_preference,
        mutations_preference_free,
    )
    return [mutation for topic in topics for mutation in topic.MUTATIONS]
