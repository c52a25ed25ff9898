"""What is asked: prompts of a wanted length, before a dialect puts them into a body."""
