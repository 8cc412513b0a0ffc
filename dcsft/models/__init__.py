"""Who answers: the only folder that knows the classes of transformers and PEFT."""
