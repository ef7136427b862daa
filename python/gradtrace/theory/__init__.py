"""Mean-field theory of random networks: numbers only."""
