"""Constitutional AI as a run: sample, critique and revise, fine-tune, label, DPO, judge."""
