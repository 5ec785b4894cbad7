"""Long-term memory: recalling symbols and numbers after a delay, and classifying sequences of pixels."""
