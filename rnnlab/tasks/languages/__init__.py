"""State tracking and formal languages of the Chomsky hierarchy: tests of what a recurrence can compute."""
