"""What an operator sees of models, and what they are ordered."""
