"""LoRA adapters: found where the user keeps them, checked, and kept loaded in the running engine."""
