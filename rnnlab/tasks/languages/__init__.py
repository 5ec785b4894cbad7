"""State tracking and formal languages of the Chomsky hierarchy: tests of the expressive power of recurrences."""
