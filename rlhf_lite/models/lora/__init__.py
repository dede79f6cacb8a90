"""LoRA from scratch: the layer, a model with adapters, and PEFT's files."""
