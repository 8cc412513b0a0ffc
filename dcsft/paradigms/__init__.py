"""The loss modes: what a training step does with a batch, one file each; a paradigm's arguments are its yaml."""
